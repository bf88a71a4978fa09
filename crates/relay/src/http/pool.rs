//! Connections to servers that no request uses: a worker's own, the one used last taken first.
//!
//! One that its server has closed, or has sent something on, is found by the readiness that
//! the runtime has of it anyway, at no call; a server that closes just when it is used costs the
//! request a second try. Once a second, while there are any, those that are too old or of no
//! use are dropped, so that nothing lies about half closed.

use super::io::try_recv;
use sosplice::tokio::Registered;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The unused connections of one worker.
#[derive(Debug)]
pub struct Pool<V>(Mutex<Shelves<V>>);

#[derive(Debug)]
struct Shelves<V> {
    /// Few, and those used together side by side: a search is cheaper than a hash.
    shelves: Vec<Shelf<V>>,
    is_swept: bool,
}

#[derive(Debug)]
struct Shelf<V> {
    server: Arc<V>,
    /// The one used last at the end.
    unused: Vec<Unused>,
}

#[derive(Debug)]
struct Unused {
    socket: Registered,
    until: Instant,
}

/// Between two looks after old ones.
const SWEEP: Duration = Duration::from_secs(1);

impl<V> Default for Pool<V> {
    fn default() -> Self {
        Self(Mutex::new(Shelves { shelves: Vec::new(), is_swept: false }))
    }
}

impl<V: Send + Sync + 'static> Pool<V> {
    fn shelves(&self) -> MutexGuard<'_, Shelves<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to that very server, if there is one. With `look` the kernel is asked too:
    /// for a request that cannot be repeated.
    pub(super) fn take(&self, server: &Arc<V>, look: bool) -> Option<Registered> {
        let mut shelves = self.shelves();
        let shelf = shelves.shelves.iter_mut().find(|shelf| Arc::ptr_eq(&shelf.server, server))?;
        while let Some(Unused { socket, until }) = shelf.unused.pop() {
            if until > Instant::now() && is_quiet(&socket) && !(look && has_news(&socket)) {
                return Some(socket);
            }
        }
        None
    }

    /// Takes back a connection on which nothing is under way, for at most `keep`. Beyond `max`
    /// to that server the oldest goes.
    pub(super) fn give(
        self: &Arc<Self>,
        server: &Arc<V>,
        socket: Registered,
        keep: Duration,
        max: usize,
    ) {
        if max == 0 {
            return;
        }
        let unused = Unused { socket, until: Instant::now() + keep };
        let mut shelves = self.shelves();
        if !std::mem::replace(&mut shelves.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
        let found = shelves.shelves.iter_mut().find(|shelf| Arc::ptr_eq(&shelf.server, server));
        match found {
            Some(shelf) => {
                if shelf.unused.len() >= max {
                    shelf.unused.remove(0);
                }
                shelf.unused.push(unused);
            }
            None => {
                shelves.shelves.push(Shelf { server: Arc::clone(server), unused: vec![unused] });
            }
        }
    }

    /// Closes all: the plan has changed, or the worker stops.
    pub fn clear(&self) {
        self.shelves().shelves.clear();
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shelves().shelves.iter().map(|shelf| shelf.unused.len()).sum()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

async fn sweep<V: Send + Sync + 'static>(pool: std::sync::Weak<Pool<V>>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut shelves = pool.shelves();
        let now = Instant::now();
        for shelf in &mut shelves.shelves {
            shelf.unused.retain(|unused| unused.until > now && is_quiet(&unused.socket));
        }
        shelves.shelves.retain(|shelf| !shelf.unused.is_empty());
        if shelves.shelves.is_empty() {
            shelves.is_swept = false;
            return;
        }
    }
}

/// Nothing has come on it, as far as the runtime knows: no byte, no end, no error.
fn is_quiet(socket: &Registered) -> bool {
    matches!(try_recv(socket, &mut [0]), Ok(None))
}

fn has_news(socket: &Registered) -> bool {
    use rustix::net::{RecvFlags, recv};
    let look = recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    look != Err(rustix::io::Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (Registered, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        (Registered::new(near.into()).expect("register"), far)
    }

    fn keep(pool: &Arc<Pool<u8>>, server: &Arc<u8>, keep: Duration) -> TcpStream {
        let (near, far) = pair();
        pool.give(server, near, keep, 8);
        far
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_server_gets_its_own_connections_and_no_equal_ones() {
        let (pool, server, equal) = (Arc::default(), Arc::new(1), Arc::new(1));
        let _far = keep(&pool, &server, HOUR);
        assert!(pool.take(&equal, false).is_none());
        assert!(pool.take(&server, false).is_some());
        assert!(pool.take(&server, false).is_none() && pool.is_empty());
    }

    /// No await comes between: the runtime cannot know of the close yet.
    #[tokio::test]
    async fn the_kernel_knows_of_a_close_before_the_runtime_does() {
        let (pool, server) = (Arc::default(), Arc::new(1));
        drop(keep(&pool, &server, HOUR));
        assert!(pool.take(&server, true).is_none());
        drop(keep(&pool, &server, HOUR));
        assert!(pool.take(&server, false).is_some(), "else this test shows nothing");
    }

    #[tokio::test]
    async fn an_old_one_is_not_taken() {
        let (pool, server) = (Arc::default(), Arc::new(1));
        let _far = keep(&pool, &server, Duration::ZERO);
        assert!(pool.take(&server, false).is_none());
    }

    #[tokio::test]
    async fn a_sweep_leaves_what_is_good_and_ends_when_nothing_is_left() {
        let (pool, server) = (Arc::default(), Arc::new(1));
        let (good, closed) = (keep(&pool, &server, HOUR), keep(&pool, &server, HOUR));
        drop(closed);
        while pool.len() == 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(good);
        while pool.shelves().is_swept {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(pool.is_empty());
    }
}
