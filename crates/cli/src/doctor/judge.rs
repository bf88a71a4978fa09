//! From readings to rows: what is well, what could be better, what stops us,
//! and the command that changes it. Pure.

use sosplice_relay::budget::{Demand, PIPES_PER_WORKER_WISHED, SESSION_DESCRIPTORS};
use sosplice_relay::counted;

use super::probe::{PIPE_SIZE_ASKED, PIPES_TRIED, Tried};
use super::readings::{Reading, Readings, version};

/// Pipes of one worker that hold bytes at a time under a load worth a judgement: flows in
/// bulk whose drain is slower than their source. A relay may have more
/// ([`PIPES_PER_WORKER_WISHED`]), and copies where it gets none.
const PIPES_IN_USE: u64 = 16;

/// The oldest kernel that the relay is meant for.
const KERNEL_LEAST: (u32, u32) = (5, 10);

/// Size of a pipe that nobody asked to be larger, in bytes.
const PIPE_SIZE_USUAL: u64 = 64 * 1024;

/// Connections below which the limit on open files is worth a word.
const SESSIONS_FEW: u64 = 10_000;

/// A limit on open files that holds a few tens of thousands of connections.
const NOFILE_AMPLE: u64 = 65_536;

/// The kernel's default since 5.4; before, 128 was the rule, and bursts of
/// connections were dropped.
const SOMAXCONN_USUAL: u64 = 4096;

/// Most of tcp_rmem and of tcp_wmem as the kernel sets them on a machine with
/// some memory, in bytes: what a long path needs to stay full.
const RMEM_MOST_USUAL: u64 = 6 << 20;
const WMEM_MOST_USUAL: u64 = 4 << 20;

/// Ports of the kernel's default range, 32768 to 60999.
const PORTS_USUAL: u64 = 28_232;

/// How good a reading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing, or not known.
    Note,
    /// Costs throughput or connections.
    Warn,
    /// Nothing runs with it.
    Stop,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub name: &'static str,
    pub level: Level,
    pub value: String,
    /// What it means, where that is not plain from the value.
    pub why: Option<String>,
    /// The exact command that changes it.
    pub change: Option<String>,
}

impl Row {
    fn new(name: &'static str, level: Level, value: impl Into<String>) -> Self {
        Row { name, level, value: value.into(), why: None, change: None }
    }

    fn ok(name: &'static str, value: impl Into<String>) -> Self {
        Row::new(name, Level::Ok, value)
    }

    fn unknown(name: &'static str, why: &str) -> Self {
        Row::new(name, Level::Note, format!("unknown: {why}"))
    }

    fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    fn change(mut self, command: impl Into<String>) -> Self {
        self.change = Some(command.into());
        self
    }
}

/// One row for everything that was read, in the order of a byte's way: the
/// kernel, splice and its pipes, sockets, descriptors, the network's limits.
pub(super) fn judge(readings: &Readings) -> Vec<Row> {
    vec![
        kernel(&readings.release),
        splice("splice tcp", &readings.splice_tcp, Level::Stop),
        splice("splice unix", &readings.splice_unix, Level::Note),
        pipe_size(readings),
        pipe_budget(readings),
        by_release("SO_RCVLOWAT", readings, (4, 18), "bulk wakes the relay less"),
        reuse_port(&readings.reuse_port),
        udp_segment(&readings.udp_segment),
        by_release("UDP_GRO", readings, (5, 0), "datagrams come in batches"),
        busy_poll(readings),
        by_release("SO_PREFER_BUSY_POLL", readings, (5, 11), "matters to --busy-poll-us only"),
        nofile(readings),
        file_max(readings),
        somaxconn(&readings.somaxconn),
        buffer("tcp_rmem", &readings.tcp_rmem, RMEM_MOST_USUAL),
        buffer("tcp_wmem", &readings.tcp_wmem, WMEM_MOST_USUAL),
        port_range(&readings.port_range),
        tw_reuse(&readings.tw_reuse),
    ]
}

/// The value, or the row that says why there is none.
macro_rules! known {
    ($name:expr, $reading:expr) => {
        match $reading {
            Ok(value) => value,
            Err(why) => return Row::unknown($name, why),
        }
    };
}

fn kernel(release: &str) -> Row {
    let least = format!("{}.{}", KERNEL_LEAST.0, KERNEL_LEAST.1);
    match version(release) {
        Some(found) if found >= KERNEL_LEAST => {
            Row::ok("kernel", format!("{release} ({least} needed)"))
        }
        Some(_) => Row::new("kernel", Level::Stop, release)
            .why(format!("{least} is the oldest kernel this is meant for"))
            .change("apt-get install linux-image-amd64 && reboot   # or your system's way"),
        None => Row::unknown("kernel", &format!("the release is {release:?}")),
    }
}

fn splice(name: &'static str, tried: &Tried, refused: Level) -> Row {
    match tried {
        Tried::Works => Row::ok(name, "socket to pipe to socket works (tried)"),
        Tried::Untried(why) => Row::unknown(name, why),
        Tried::Refused(error) => {
            let row = Row::new(name, refused, format!("refused: {error}"));
            match refused {
                Level::Stop => row
                    .why("a sandbox may forbid splice(2): allow it, or leave the sandbox")
                    .change("docker run --security-opt seccomp=unconfined ..."),
                _ => row.why("unix sockets are then carried by the copy engine"),
            }
        }
    }
}

/// Whether pipes are as large as they were asked to be, now.
fn pipe_size(readings: &Readings) -> Row {
    const NAME: &str = "pipe size";
    let pipes = known!(NAME, &readings.pipes);
    let value = format!(
        "{} given, {} unasked ({} asked, {PIPES_TRIED} pipes tried)",
        size(pipes.given),
        size(pipes.unasked),
        size(PIPE_SIZE_ASKED)
    );
    if pipes.given >= PIPE_SIZE_ASKED {
        return Row::ok(NAME, value);
    }
    let level = match pipes.given < PIPE_SIZE_USUAL {
        true => Level::Warn,
        false => Level::Note,
    };
    let row = Row::new(NAME, level, value);
    match (&readings.pipe_size_max, &readings.pipe_pages_hard) {
        (Ok(most), _) if *most < PIPE_SIZE_ASKED && pipes.given >= *most => row
            .why("fs.pipe-max-size is the bound for those without privilege")
            .change(format!("sysctl -w fs.pipe-max-size={PIPE_SIZE_ASKED}")),
        (_, Ok(hard)) if *hard > 0 => row
            .why("this user's pipes are near fs.pipe-user-pages-hard")
            .change("sysctl -w fs.pipe-user-pages-hard=0"),
        _ => row
            .why(format!(
                "this user's pipes use up fs.pipe-user-pages-soft{}",
                match &pipes.refused {
                    Some(error) => format!(" ({error})"),
                    None => String::new(),
                }
            ))
            .change(format!("sysctl -w fs.pipe-user-pages-soft={}", pages_wished(readings))),
    }
}

/// How many pipes there may be before the kernel gives small ones, or none.
fn pipe_budget(readings: &Readings) -> Row {
    const NAME: &str = "pipe budget";
    let soft = *known!(NAME, &readings.pipe_pages_soft);
    let hard = *known!(NAME, &readings.pipe_pages_hard);
    if *known!(NAME, &readings.privileged) {
        return Row::ok(
            NAME,
            format!("no limit for a privileged process (others: soft {soft}, hard {hard} pages)"),
        );
    }
    let (bound, sysctl) = match (soft, hard) {
        (0, 0) => return Row::ok(NAME, "no limit (soft 0, hard 0 pages)"),
        (soft, hard) if soft > 0 && (hard == 0 || soft <= hard) => {
            (soft, "fs.pipe-user-pages-soft")
        }
        (_, hard) => (hard, "fs.pipe-user-pages-hard"),
    };
    let large = bound / pages(PIPE_SIZE_ASKED, readings);
    let value = format!(
        "{large} pipes of {}, or {} of {}, for all of this user (soft {soft}, hard {hard} pages)",
        size(PIPE_SIZE_ASKED),
        bound / pages(PIPE_SIZE_USUAL, readings),
        size(PIPE_SIZE_USUAL),
    );
    let wished = PIPES_IN_USE * readings.workers;
    if large >= wished {
        return Row::ok(NAME, value);
    }
    let level = match bound / pages(PIPE_SIZE_USUAL, readings) < wished {
        true => Level::Warn,
        false => Level::Note,
    };
    Row::new(NAME, level, value)
        .why(format!(
            "{} would use {wished} in all; past the limit pipes are small or refused, \
             without an error on the connection",
            counted(readings.workers, "worker")
        ))
        .change(format!("sysctl -w {sysctl}={}", pages_wished(readings)))
}

/// Pages that hold every pipe that the workers wish for, and as much again for
/// what else this user runs.
fn pages_wished(readings: &Readings) -> u64 {
    let each = pages(PIPE_SIZE_ASKED, readings);
    let wished = PIPES_IN_USE * readings.workers.max(1) * each * 2;
    let now = *readings.pipe_pages_soft.as_ref().unwrap_or(&0);
    wished.max(now.saturating_mul(2)).checked_next_power_of_two().unwrap_or(u64::MAX)
}

fn pages(bytes: u64, readings: &Readings) -> u64 {
    (bytes / readings.page_size.max(1)).max(1)
}

/// For what nothing safe can try: the kernel has had it since a release.
fn by_release(
    name: &'static str,
    readings: &Readings,
    since: (u32, u32),
    meaning: &'static str,
) -> Row {
    let release = &readings.release;
    let since_text = format!("{}.{}", since.0, since.1);
    match version(release) {
        Some(found) if found >= since => {
            Row::ok(name, format!("yes, by release (since {since_text})"))
        }
        Some(_) => {
            Row::new(name, Level::Note, format!("no, by release (since {since_text})")).why(meaning)
        }
        None => Row::unknown(name, &format!("the release is {release:?}")),
    }
}

fn reuse_port(tried: &Tried) -> Row {
    const NAME: &str = "SO_REUSEPORT";
    match tried {
        Tried::Works => Row::ok(NAME, "a listener for each worker works (tried)"),
        Tried::Untried(why) => Row::unknown(NAME, why),
        Tried::Refused(error) => Row::new(NAME, Level::Warn, format!("refused: {error}"))
            .why("one listener would have to serve every worker")
            .change("sosplice relay --workers 1 ..."),
    }
}

fn udp_segment(tried: &Tried) -> Row {
    const NAME: &str = "UDP_SEGMENT";
    match tried {
        Tried::Works => Row::ok(NAME, "one send became three datagrams (tried)"),
        Tried::Untried(why) => Row::unknown(NAME, why),
        Tried::Refused(error) => Row::new(NAME, Level::Note, format!("refused: {error}"))
            .why("datagrams are then sent one by one; TCP does not care"),
    }
}

fn busy_poll(readings: &Readings) -> Row {
    const NAME: &str = "SO_BUSY_POLL";
    let everywhere = match &readings.busy_read {
        Ok(0) => "net.core.busy_read is 0: off unless asked for".to_owned(),
        Ok(time) => format!("net.core.busy_read is {time} us: on for every socket"),
        Err(why) => format!("net.core.busy_read unknown: {why}"),
    };
    match &readings.busy_poll {
        Tried::Works => Row::ok(NAME, format!("may be set (tried); {everywhere}")),
        Tried::Untried(why) => Row::unknown(NAME, why),
        Tried::Refused(error) => {
            Row::new(NAME, Level::Note, format!("refused: {error}; {everywhere}"))
                .why("matters to --busy-poll-us only, which needs CAP_NET_ADMIN")
                .change("setcap cap_net_admin+ep \"$(command -v sosplice)\"")
        }
    }
}

fn nofile(readings: &Readings) -> Row {
    const NAME: &str = "open files";
    let (soft, hard) = (readings.nofile_soft, readings.nofile_hard);
    let limits = format!("soft {}, hard {}", or_no_limit(soft), or_no_limit(readings.nofile_hard));
    // The relay raises soft to hard when it starts.
    let demand = Demand {
        nofile: hard,
        workers: readings.workers,
        listeners_per_worker: 1,
        per_session: SESSION_DESCRIPTORS,
        pipes_per_worker: PIPES_PER_WORKER_WISHED,
        max_connections: None,
        flag: "--max-connections",
    };
    let open = match &readings.nr_open {
        Ok(most) if *most < NOFILE_AMPLE => {
            format!("sysctl -w fs.nr_open={NOFILE_AMPLE} && ulimit -n {NOFILE_AMPLE}")
        }
        _ => format!("ulimit -n {NOFILE_AMPLE}"),
    };
    match demand.budget() {
        Ok(budget) if budget.max_connections >= SESSIONS_FEW => {
            Row::ok(NAME, format!("{limits}: up to {} connections", budget.max_connections))
        }
        Ok(budget) => Row::new(
            NAME,
            Level::Note,
            format!("{limits}: up to {} connections", budget.max_connections),
        )
        .why("as root, in the shell that starts the relay (systemd: LimitNOFILE=)")
        .change(open),
        Err(error) => Row::new(NAME, Level::Warn, limits).why(error.to_string()).change(open),
    }
}

fn file_max(readings: &Readings) -> Row {
    const NAME: &str = "fs.file-max";
    let most = *known!(NAME, &readings.file_max);
    let needed = readings.nofile_hard.min(NOFILE_AMPLE);
    if most >= needed {
        return Row::ok(NAME, format!("{} for the whole system", or_no_limit(most)));
    }
    Row::new(NAME, Level::Warn, format!("{most} for the whole system"))
        .why("less than this one process may open")
        .change(format!("sysctl -w fs.file-max={}", NOFILE_AMPLE * 4))
}

fn somaxconn(reading: &Reading<u64>) -> Row {
    const NAME: &str = "somaxconn";
    let most = *known!(NAME, reading);
    if most >= SOMAXCONN_USUAL {
        return Row::ok(NAME, format!("{most} connections may wait on each listener"));
    }
    Row::new(NAME, Level::Warn, most.to_string())
        .why("a burst of connections longer than this is dropped and tried again a second later")
        .change(format!("sysctl -w net.core.somaxconn={SOMAXCONN_USUAL}"))
}

fn buffer(name: &'static str, reading: &Reading<[u64; 3]>, usual: u64) -> Row {
    let [least, default, most] = *known!(name, reading);
    if most >= usual {
        return Row::ok(name, format!("up to {} a socket", size(most)));
    }
    Row::new(name, Level::Note, format!("up to {} a socket", size(most)))
        .why("bounds one stream to this much a round trip")
        .change(format!("sysctl -w net.ipv4.{name}=\"{least} {default} {usual}\""))
}

fn port_range(reading: &Reading<[u64; 2]>) -> Row {
    const NAME: &str = "local ports";
    let [first, last] = *known!(NAME, reading);
    let ports = last.saturating_add(1).saturating_sub(first);
    let value = format!("{first} to {last}: {ports} connections to one upstream address");
    if ports >= PORTS_USUAL {
        return Row::ok(NAME, value);
    }
    Row::new(NAME, Level::Note, value)
        .why("each connection to the same address and port takes one")
        .change("sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"")
}

fn tw_reuse(reading: &Reading<u64>) -> Row {
    const NAME: &str = "tcp_tw_reuse";
    let (value, why) = match *known!(NAME, reading) {
        1 => {
            return Row::ok(NAME, "1: ports of closed connections are used again at once");
        }
        2 => (
            "2: on loopback only".to_owned(),
            "ports to other upstreams rest for a minute after a close by the relay",
        ),
        other => (other.to_string(), "ports rest for a minute after a close by the relay"),
    };
    Row::new(NAME, Level::Note, value).why(why).change("sysctl -w net.ipv4.tcp_tw_reuse=1")
}

fn or_no_limit(number: u64) -> String {
    // fs.file-max says "none" by the largest signed number.
    match number >= i64::MAX as u64 {
        true => "no limit".to_owned(),
        false => number.to_string(),
    }
}

/// Bytes as the largest unit that divides them.
fn size(bytes: u64) -> String {
    match bytes {
        0 => "0 bytes".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => counted(bytes, "byte"),
    }
}

#[cfg(test)]
mod tests;
