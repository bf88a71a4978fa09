//! The broker's loop: who is connected, and what becomes of each packet.

use super::claim::{Claim, Id};
use super::control::{self, Answer, Ask, PACKET_BYTES_MAX};
use super::directory::Seat;
use super::memory::MailWord;
use super::pairs::{Pair, Pairs};
use super::policy::Policy;
use super::sockets::{Diag, Process, Users, cgroups, command};
use super::status::{EndStatus, MemberStatus, PairStatus, Status};
use super::table::{Change, Owner, PairId, Room, Table};
use super::{Error, Options, Scope};
use crate::layout::pair_bytes;
use crate::packet;
use crate::settings::ring_bytes_are_sound;
use crate::wire::{Announcement, CONTROL, REQUEST_BYTES, Reason, Reply, Request};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Packets of one member in one turn of the loop.
const PACKETS_A_TURN: usize = 32;
/// Packets of one member that are read ahead of their turn at most.
const PACKETS_AHEAD_MAX: usize = 1024;
/// Events in one turn.
const EVENTS_A_TURN: usize = 64;
/// How long nobody is accepted when the system has no descriptor left.
const REST: Duration = Duration::from_millis(100);

const LISTENER: Id = Id(0);

/// The process that brings the two ends of a connection together.
#[derive(Debug)]
pub struct Broker {
    seat: Seat,
    dir: PathBuf,
    options: Options,
    epoll: OwnedFd,
    users: Users,
    diag: Option<Diag>,
    policy: Policy,
    policy_was_set: bool,
    connections: BTreeMap<Id, Connection>,
    /// Processes that will have members, by number, and their pidfds.
    expected: HashMap<u32, (Id, OwnedFd)>,
    table: Table,
    pairs: Pairs,
    last_id: u64,
    /// Packets that were read ahead of their turn, in order.
    ahead: VecDeque<(Id, Vec<u8>)>,
    /// Since when there was no reason to be there.
    idle_since: Option<Instant>,
    /// Until when nobody is accepted.
    rests_until: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    process: Process,
    /// Of a member.
    mail: Option<MailWord>,
}

/// What a packet has shown its sender to be.
#[derive(PartialEq, Eq)]
enum Manners {
    Good,
    /// It is let go.
    Bad,
}

impl Broker {
    /// Takes the directory. Who connects from now on is served once [`Broker::run`] runs.
    pub fn bind(dir: &Path, options: Options) -> Result<Self, Error> {
        let seat = Seat::take(dir)?;
        let limits = options.limits;
        let room = Room {
            of_member: limits.waiting_of_member,
            of_user: limits.waiting.div_ceil(2),
            of_all: limits.waiting,
        };
        let mut broker = Self {
            seat,
            dir: dir.into(),
            options,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            users: Users::new(),
            diag: Diag::new(),
            policy: Policy::default(),
            policy_was_set: false,
            connections: BTreeMap::new(),
            expected: HashMap::new(),
            table: Table::new(options.scope, room),
            pairs: Pairs::default(),
            last_id: LISTENER.0,
            ahead: VecDeque::new(),
            idle_since: None,
            rests_until: None,
        };
        broker.listen(true)?;
        Ok(broker)
    }

    /// Serves until nobody has needed it for the time that the options say.
    pub fn run(mut self) -> Result<(), Error> {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        while let Some(wait) = self.time_left() {
            let mut events = Vec::with_capacity(EVENTS_A_TURN);
            let wait = wait.and_then(|wait| wait.try_into().ok());
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                wait.as_ref(),
            ) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            for event in events {
                match Id(event.data.u64()) {
                    LISTENER => self.accept(),
                    id if self.connections.contains_key(&id) => self.hear(id, &mut packet),
                    id => self.expected.retain(|_, (expected, _)| *expected != id),
                }
            }
        }
        Ok(())
    }

    /// How long to wait for events; for ever if there is no inner limit, and not at all any
    /// more if there is no outer one.
    fn time_left(&mut self) -> Option<Option<Duration>> {
        let now = Instant::now();
        if self.rests_until.is_some_and(|until| until <= now) {
            self.rests_until = None;
            // Only a lack of memory can forbid it.
            let _ = self.listen(true);
        }
        let rest = self.rests_until.map(|until| until - now);
        let needed =
            self.policy_was_set || !self.connections.is_empty() || !self.expected.is_empty();
        if needed {
            self.idle_since = None;
            return Some(rest);
        }
        let idle = now - *self.idle_since.get_or_insert(now);
        let left = self.options.linger.checked_sub(idle).filter(|left| !left.is_zero())?;
        Some(Some(rest.map_or(left, |rest| rest.min(left))))
    }

    fn listen(&mut self, on: bool) -> Result<(), Errno> {
        let data = EventData::new_u64(LISTENER.0);
        if on {
            epoll::add(&self.epoll, &self.seat.listener, data, EventFlags::IN)
        } else {
            epoll::delete(&self.epoll, &self.seat.listener)
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..PACKETS_A_TURN {
            match rustix::net::accept_with(&self.seat.listener, flags) {
                // Whoever is one too many is hung up on.
                Ok(socket) => drop(self.admit(socket)),
                Err(Errno::NFILE | Errno::MFILE | Errno::NOMEM | Errno::NOBUFS) => {
                    if self.listen(false).is_ok() {
                        self.rests_until = Some(Instant::now() + REST);
                    }
                    return;
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd) -> Result<(), Errno> {
        let process = self.users.process(&socket)?;
        let limit = self.options.limits.connections;
        let of_user = self.connections.values().filter(|other| other.process.user == process.user);
        if self.connections.len() >= limit || of_user.count() >= limit.div_ceil(2) {
            return Err(Errno::USERS);
        }
        let id = self.watch(&socket)?;
        self.connections.insert(id, Connection { socket, process, mail: None });
        Ok(())
    }

    fn watch(&mut self, fd: &OwnedFd) -> Result<Id, Errno> {
        self.last_id += 1;
        epoll::add(&self.epoll, fd, EventData::new_u64(self.last_id), EventFlags::IN)?;
        Ok(Id(self.last_id))
    }

    fn hear(&mut self, id: Id, packet: &mut [u8]) {
        for _ in 0..PACKETS_A_TURN {
            let Some(connection) = self.connections.get(&id) else { return };
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let manners = match rustix::net::recv(&connection.socket, &mut *packet, flags) {
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => continue,
                Err(_) => Manners::Bad,
                Ok((_, 0)) => Manners::Bad,
                Ok((_, len)) if len > packet.len() => Manners::Bad,
                Ok((_, len)) => {
                    let manners = self.take(id, &packet[..len]);
                    self.take_what_was_read_ahead();
                    manners
                }
            };
            if manners == Manners::Bad {
                return self.let_go(id);
            }
        }
    }

    /// Before a claim is matched with another's: hears what that one has said since. Its connection may
    /// have ended, and its addresses be another's by now; that was said before this claim, but by
    /// somebody whose turn has not come.
    fn hear_withdrawals(&mut self, id: Id) {
        let mut packet = [0; REQUEST_BYTES];
        for _ in 0..PACKETS_AHEAD_MAX {
            let Some(connection) = self.connections.get(&id) else { return };
            if connection.mail.is_none() {
                return;
            }
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match rustix::net::recv(&connection.socket, &mut packet, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok((_, len @ 1..)) if len <= packet.len() => {
                    match Request::decode(&packet[..len]) {
                        Some(Request::Withdraw { token }) if self.table.has(id, token) => {
                            let change = self.table.withdraw(id, token);
                            self.settle(change);
                        }
                        // Of what was announced ahead as well.
                        _ => self.ahead.push_back((id, packet[..len].to_vec())),
                    }
                }
                _ => return self.let_go(id),
            }
        }
    }

    fn is_withdrawn_ahead(&self, id: Id, token: u64) -> bool {
        let withdrawal = Request::Withdraw { token }.encode();
        self.ahead.iter().any(|(of, packet)| *of == id && packet[..] == withdrawal[..])
    }

    fn take_what_was_read_ahead(&mut self) {
        while let Some((id, packet)) = self.ahead.pop_front() {
            if self.connections.contains_key(&id) && self.take(id, &packet) == Manners::Bad {
                self.let_go(id);
            }
        }
    }

    fn take(&mut self, id: Id, packet: &[u8]) -> Manners {
        if let Some((word, text)) = packet.split_first_chunk()
            && *word == CONTROL.to_le_bytes()
        {
            return self.answer(id, text);
        }
        let Some(connection) = self.connections.get(&id) else { return Manners::Bad };
        match (Request::decode(packet), &connection.mail) {
            (Some(Request::Hello), None) => self.welcome(id),
            (Some(Request::Expect), None) => self.expect(id),
            (Some(Request::Announce(said)), Some(_)) => self.announce(id, &said),
            (Some(Request::Withdraw { token }), Some(_)) => {
                let change = self.table.withdraw(id, token);
                self.settle(change);
                Manners::Good
            }
            _ => Manners::Bad,
        }
    }

    fn welcome(&mut self, id: Id) -> Manners {
        let Some(connection) = self.connections.get_mut(&id) else { return Manners::Bad };
        let Ok((mail, memory)) = MailWord::make() else { return Manners::Bad };
        let said = connection.say(&Reply::Welcome.encode(), Some(memory.as_fd()));
        // Behind the answer, which is awaited and no mail.
        connection.mail = Some(mail);
        said
    }

    /// Until it ends the process counts as somebody who needs the broker.
    fn expect(&mut self, id: Id) -> Manners {
        let Some(connection) = self.connections.get(&id) else { return Manners::Bad };
        let number = connection.process.pid;
        let room = self.expected.len() < self.options.limits.connections;
        // One that is out of sight cannot be watched, and finds a broker or does not.
        if let Some(pid) = Pid::from_raw(number as i32).filter(|_| room)
            && !self.expected.contains_key(&number)
            && let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            && let Ok(watched) = self.watch(&process)
        {
            self.expected.insert(number, (watched, process));
        }
        match self.connections.get(&id) {
            Some(connection) => connection.say(&Reply::Welcome.encode(), None),
            None => Manners::Bad,
        }
    }

    fn announce(&mut self, id: Id, said: &Announcement) -> Manners {
        let Some(connection) = self.connections.get(&id) else { return Manners::Bad };
        if !ring_bytes_are_sound(said.ring_bytes) {
            return Manners::Bad;
        }
        let process = connection.process;
        let change = match Claim::new(id, process.user, said) {
            Err(reason) => {
                let change = self.table.withdraw(id, said.token);
                self.refuse(id, said.token, reason);
                change
            }
            Ok(claim) => match self.policy.objects(&claim, || cgroups(process.pid)) {
                Some(reason) => {
                    let mut change = self.table.withdraw(id, said.token);
                    change.refused.push((claim, reason));
                    change
                }
                None => {
                    let others = self.table.matching(&claim);
                    if !others.is_empty() {
                        others.into_iter().for_each(|other| self.hear_withdrawals(other));
                        self.hear_withdrawals(id);
                        if !self.connections.contains_key(&id) {
                            return Manners::Bad;
                        }
                        if self.is_withdrawn_ahead(id, said.token) {
                            self.pairs.stays(Reason::NotAnnounced);
                            return Manners::Good;
                        }
                    }
                    let diag = &self.diag;
                    let owner = |claim: &Claim| {
                        diag.as_ref().map_or(Owner::Unknown, |diag| diag.owner(claim))
                    };
                    self.table.announce(claim, owner)
                }
            },
        };
        self.settle(change);
        Manners::Good
    }

    /// Carries out what came of an announcement, a withdrawal or an end.
    fn settle(&mut self, change: Change) {
        for pair in change.ended {
            self.end(pair);
        }
        for (claim, reason) in change.refused {
            self.refuse(claim.member, claim.token, reason);
        }
        for _ in 0..change.withdrawn {
            self.pairs.stays(Reason::NotAnnounced);
        }
        if let Some(ends) = change.matched
            && let Err(reason) = self.pair(ends)
        {
            for end in ends {
                self.refuse(end.member, end.token, reason);
            }
        }
    }

    fn pair(&mut self, ends: [Claim; 2]) -> Result<(), Reason> {
        self.make_room(ends)?;
        let (pair, memory) = Pairs::make(ends).map_err(|_| Reason::NoMemory)?;
        let ring_bytes = pair.ring_bytes as u64;
        for (end, role) in ends.iter().zip(0..) {
            let offer = Reply::Offer { token: end.token, role, ring_bytes };
            let member = self.connections.get(&end.member);
            let told = member.map(|member| member.say(&offer.encode(), Some(memory.as_fd())));
            if told != Some(Manners::Good) {
                // The first end may have the memory already: it reads there that it is alone.
                pair.refuse();
                return Err(Reason::MailUnread);
            }
        }
        let id = self.pairs.add(pair);
        self.table.paired(id, &ends);
        Ok(())
    }

    fn make_room(&mut self, ends: [Claim; 2]) -> Result<(), Reason> {
        let limits = self.options.limits;
        let ring_bytes = ends[0].ring_bytes.min(ends[1].ring_bytes);
        let fits = |pairs: &Pairs| {
            let memory = pairs.memory_bytes() + pair_bytes(ring_bytes) as u64;
            pairs.len() < limits.pairs && memory <= limits.memory_bytes
        };
        if !fits(&self.pairs) {
            self.end_closed();
        }
        if fits(&self.pairs) { Ok(()) } else { Err(Reason::Limit) }
    }

    fn end_closed(&mut self) {
        for pair in self.pairs.closed() {
            self.end(pair);
        }
    }

    fn end(&mut self, id: PairId) {
        if let Some(pair) = self.pairs.end(id) {
            self.table.unpaired(id, &pair.ends);
        }
    }

    fn refuse(&mut self, member: Id, token: u64, reason: Reason) {
        self.pairs.stays(reason);
        if let Some(member) = self.connections.get(&member) {
            // Whoever does not read it stays on TCP as well.
            member.say(&Reply::Refused { token, reason }.encode(), None);
        }
    }

    fn let_go(&mut self, id: Id) {
        self.connections.remove(&id);
        let change = self.table.hang_up(id);
        self.settle(change);
    }

    fn answer(&mut self, id: Id, text: &[u8]) -> Manners {
        let Some(connection) = self.connections.get(&id) else { return Manners::Bad };
        let (Some(question), None) = (control::question(text), &connection.mail) else {
            return Manners::Bad;
        };
        let own = rustix::process::geteuid().as_raw();
        let answer = if [Some(0), Some(own)].contains(&connection.process.user) {
            self.obey(question)
        } else {
            Answer::NotYours { uid: own }
        };
        let connection = self.connections.get(&id);
        let (Some(memory), Some(connection)) = (control::memory(&answer), connection) else {
            return Manners::Bad;
        };
        connection.say(&CONTROL.to_le_bytes(), Some(memory.as_fd()))
    }

    fn obey(&mut self, question: Ask) -> Answer {
        match question {
            Ask::Enable(policy) => self.set(policy),
            Ask::Disable => self.set(Policy { enabled: false, ..self.policy.clone() }),
            Ask::Status => return Answer::Status(Box::new(self.status())),
        }
        Answer::Done
    }

    fn set(&mut self, policy: Policy) {
        self.policy = policy;
        self.policy_was_set = true;
        let (policy, connections) = (&self.policy, &self.connections);
        let change = self.table.sift(|claim| {
            let pid = connections.get(&claim.member).map_or(0, |member| member.process.pid);
            policy.objects(claim, || cgroups(pid))
        });
        self.settle(change);
    }

    fn status(&mut self) -> Status {
        self.end_closed();
        let reasons = self.pairs.on_tcp.iter();
        let mut on_tcp: BTreeMap<String, u64> =
            reasons.map(|(reason, count)| (reason.text().to_owned(), *count)).collect();
        if self.table.waiting() > 0 {
            let waiting = on_tcp.entry(Reason::NotAnnounced.text().to_owned()).or_default();
            *waiting += self.table.waiting() as u64;
        }
        Status {
            rendezvous: self.dir.clone(),
            pid: std::process::id(),
            one_network: self.options.scope == Scope::Network,
            policy: self.policy.clone(),
            policy_was_set: self.policy_was_set,
            pairs: self.pairs.iter().map(|pair| self.pair_status(pair)).collect(),
            ended: self.pairs.ended,
            on_tcp,
            members: self.member_status(),
            memory_bytes: self.pairs.memory_bytes(),
        }
    }

    fn pair_status(&self, pair: &Pair) -> PairStatus {
        let ends = pair.ends.map(|end| {
            let pid = self.connections.get(&end.member).map_or(0, |member| member.process.pid);
            EndStatus { address: end.local, pid, command: command(pid), uid: end.user }
        });
        PairStatus {
            ends,
            ring_bytes: pair.ring_bytes as u64,
            memory_bytes: pair_bytes(pair.ring_bytes) as u64,
            directions: pair.traffic(),
        }
    }

    fn member_status(&self) -> Vec<MemberStatus> {
        let mut pairs: HashMap<Id, u64> = HashMap::new();
        for end in self.pairs.iter().flat_map(|pair| pair.ends) {
            *pairs.entry(end.member).or_default() += 1;
        }
        let members = self.connections.iter().filter(|(_, member)| member.mail.is_some());
        let status = members.map(|(id, member)| MemberStatus {
            pid: member.process.pid,
            command: command(member.process.pid),
            uid: member.process.user,
            pairs: pairs.get(id).copied().unwrap_or(0),
            waiting: self.table.waiting_of(*id) as u64,
        });
        status.collect()
    }
}

impl Connection {
    /// Never waits. A member is told behind the packet that it is there: the other way round
    /// it could look too early, and not again.
    fn say(&self, bytes: &[u8], memory: Option<BorrowedFd<'_>>) -> Manners {
        let sent = packet::send(self.socket.as_fd(), bytes, memory, SendFlags::DONTWAIT);
        if let (Ok(()), Some(mail)) = (&sent, &self.mail) {
            mail.count_up();
        }
        if sent.is_ok() { Manners::Good } else { Manners::Bad }
    }
}
