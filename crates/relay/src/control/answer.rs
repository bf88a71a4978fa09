//! Each request's answer: the only place where a client reaches into the service.

use super::protocol::{Answer, Request, Setting};
use super::serve::Reply;
use super::sessions::{self, Sessions};
use crate::service::State;
use crate::upstream::{Admin, Server, Upstream};
use std::sync::Arc;

/// Does what is asked.
pub(super) async fn answer(state: &Arc<State>, request: Request) -> Reply {
    Reply::One(match request {
        Request::Sessions => {
            return Reply::Sessions(Sessions::of(state).await);
        }
        Request::Kill { ids } => {
            let (killed, unknown) = sessions::kill(state, ids).await;
            Answer::Killed { killed, unknown }
        }
        Request::Upstreams => Answer::Servers(state.graph().upstreams.snapshot()),
        Request::Server { upstream, server, set } => {
            set_server(state, &upstream, server.as_deref(), set).unwrap_or_else(Answer::Refused)
        }
        Request::Stats => Answer::Stats(Box::new(super::stats(state))),
        Request::Reload => match state.reload_aside().await {
            Ok(told) => Answer::Reloaded(told),
            Err(why) => Answer::Refused(why),
        },
    })
}

fn set_server(
    state: &State,
    upstream: &str,
    server: Option<&str>,
    set: Setting,
) -> Result<Answer, String> {
    let graph = state.graph();
    let found = graph.upstreams.find(upstream).ok_or_else(|| {
        let names = graph.upstreams.iter().map(|upstream| upstream.name());
        format!("there is no upstream {upstream:?}{}", known(names))
    })?;
    let servers = match server {
        Some(name) => vec![one(found, name)?],
        None => found.servers().iter().collect(),
    };
    for server in &servers {
        server.set_admin(match set {
            Setting::Enable => Admin::Enabled,
            Setting::Disable => Admin::Disabled,
            Setting::Drain => Admin::Draining,
        });
    }
    let is_set = |name: &str| servers.iter().any(|server| server.name() == name);
    let mut snapshots = graph.upstreams.snapshot();
    snapshots.retain(|snapshot| snapshot.upstream == upstream && is_set(&snapshot.server));
    Ok(Answer::Servers(snapshots))
}

fn one<'u>(upstream: &'u Upstream, name: &str) -> Result<&'u Arc<Server>, String> {
    upstream.server(name).ok_or_else(|| {
        let names = upstream.servers().iter().map(|server| server.name());
        format!("upstream {:?} has no server {name:?}{}", upstream.name(), known(names))
    })
}

/// The names that there are, as far as they help.
fn known<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const SHOWN_MAX: usize = 20;
    let names: Vec<_> = names.take(SHOWN_MAX + 1).collect();
    match names.len() {
        0 => String::new(),
        len if len > SHOWN_MAX => format!("; among others there is {}", names[0]),
        _ => format!("; there is {}", names.join(", ")),
    }
}
