//! A kill is a reset at both ends: a FIN could be taken for the end of a message. (A tunnel that is
//! cut resets both for whatever reason.)

use super::site::Site;
use sosplice::sys;
use sosplice::tokio::Registered;

/// Watches over a socket on which something is under way, until that ends in whatever way.
pub(super) struct ResetIfKilled<'s, S: Site> {
    pub(super) socket: &'s Registered,
    pub(super) site: &'s S,
}

impl<S: Site> Drop for ResetIfKilled<'_, S> {
    fn drop(&mut self) {
        if self.site.is_killed() {
            // One that is gone already needs none.
            let _ = sys::reset_on_close(self.socket);
        }
    }
}
