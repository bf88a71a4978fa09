//! The workers of one listening address: started together, told together, and ended together.

use super::desk::Desk;
use super::worker::{self, Bell, Live, Quota, Setup};
use crate::error::Error;
use crate::graph::Binding;
use crate::live::Numbers;
use crate::room::Room;
use crate::service::Stage;
use socket2::Socket;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Running workers.
#[derive(Debug)]
pub(crate) struct Group {
    live: watch::Sender<Live>,
    quota: Arc<Quota>,
    bells: Vec<Arc<Bell>>,
    desks: Vec<Desk>,
    threads: Vec<JoinHandle<()>>,
}

impl Group {
    /// Starts a worker for each of `sockets`, which are bound to one address. Each holds `alive`
    /// while it runs.
    ///
    /// # Errors
    /// A thread or a descriptor that the kernel refuses.
    pub(crate) fn start(
        binding: Binding,
        sockets: Vec<Socket>,
        room: &Room,
        numbers: &Arc<Numbers>,
        busy_poll: Duration,
        alive: &mpsc::Sender<Infallible>,
    ) -> Result<Self, Error> {
        let bells = (0..sockets.len())
            .map(|worker| {
                Bell::new().map(Arc::new).map_err(|source| Error::Worker { worker, source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let max_sessions = room.sessions(&binding.relay.plan);
        let quota = Arc::new(Quota::new(max_sessions, bells.clone()));
        let live = Live { stage: Stage::Running, binding: Arc::new(binding) };
        let live = watch::channel(live).0;
        let mut group = Self { live, quota, bells, desks: Vec::new(), threads: Vec::new() };
        // Sockets of workers that have ended, closed with the last; see [`worker::run`].
        let ended = Arc::new(Mutex::new(Vec::new()));
        for (number, socket) in sockets.into_iter().enumerate() {
            let (live, quota) = (group.live.subscribe(), Arc::clone(&group.quota));
            let (bell, alive) = (Arc::clone(&group.bells[number]), alive.clone());
            let (desk, questions) = Desk::new(Arc::clone(&bell));
            let numbers = Arc::clone(numbers);
            let setup = Setup { number, live, quota, numbers, questions, busy_poll };
            group.desks.push(desk);
            let ended = Arc::clone(&ended);
            let work = move || {
                match worker::run(setup, socket, &bell) {
                    Ok(socket) => {
                        ended.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
                    }
                    Err(error) => tracing::error!(worker = number, %error, "worker failed"),
                }
                drop((ended, alive));
            };
            let thread = std::thread::Builder::new().name(format!("relay-{number}")).spawn(work);
            match thread {
                Ok(thread) => group.threads.push(thread),
                Err(source) => {
                    group.cancel();
                    return Err(Error::Worker { worker: number, source });
                }
            }
        }
        Ok(group)
    }

    /// A reload: what new sessions go by and how many there may be, and how long running ones may
    /// be silent.
    pub(crate) fn rebind(&self, binding: Binding, room: &Room) {
        self.quota.resize(room.sessions(&binding.relay.plan));
        self.live.send_modify(|live| live.binding = Arc::new(binding));
        self.ring();
    }

    /// How far the service, or this group, has come towards its end.
    pub(crate) fn tell(&self, stage: Stage) {
        self.live.send_modify(|live| live.stage = stage);
        self.ring();
    }

    /// Where the workers are asked about their sessions.
    pub(crate) fn desks(&self) -> &[Desk] {
        &self.desks
    }

    fn ring(&self) {
        self.bells.iter().for_each(|bell| bell.ring());
    }

    /// No worker is left.
    pub(crate) fn has_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends at once, its sessions too; then its address is free.
    pub(crate) fn cancel(self) {
        self.tell(Stage::Cut);
        self.join();
    }

    /// Waits for the workers. A panic was printed by its own thread.
    pub(crate) fn join(self) {
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        drop(ended);
    }
}
