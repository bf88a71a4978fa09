//! Processes inside a namespace: each has a deadline, its output goes to a
//! file (a pipe nobody drains would block it), and none outlives its handle.
//!
//! A child leads its own process group, so that a relay which forks (nginx,
//! socat) is killed, and its cost counted, as one thing.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Error;
use super::netns::{Lab, Place, ip_command};
use super::workload::Protocol;

/// How often a child is looked at: rare enough to cost nothing measurable.
const LOOK: Duration = Duration::from_millis(20);

/// A running child; dropping it kills its whole group.
pub struct Child {
    name: String,
    inner: std::process::Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Child {
    /// Starts `argv` in a namespace; `name` is used in messages and file names.
    pub fn start(lab: &Lab, place: Place, name: &str, argv: &[String]) -> Result<Child, Error> {
        let file = |kind: &str| {
            let path = lab.scratch().join(format!("{name}.{kind}"));
            File::create(&path)
                .map(|file| (path.clone(), file))
                .map_err(Error::io(format!("create {}", path.display())))
        };
        let (stdout, out) = file("out")?;
        let (stderr, err) = file("err")?;
        let inner = ip_command()
            .args(["netns", "exec", &lab.namespace(place)])
            .args(argv)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("start {name}")))?;
        Ok(Child { name: name.to_owned(), inner, stdout, stderr })
    }

    /// The process id, which is also the group's (`ip netns exec` execs).
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// What it has written to stdout until now.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it has written to stderr until now.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Waits until a socket listens on this address inside the child's
    /// namespace. Read off /proc rather than tried: a trial connection would
    /// reach the server behind the relay and count as its first client.
    pub fn wait_listening(
        &mut self,
        protocol: Protocol,
        address: Ipv4Addr,
        port: u16,
    ) -> Result<(), Error> {
        // 0A is TCP_LISTEN; 07 is TCP_CLOSE, as an unconnected UDP socket has it.
        let (table, state) = match protocol {
            Protocol::Tcp | Protocol::Http => ("tcp", "0A"),
            Protocol::Udp => ("udp", "07"),
        };
        let wanted = format!("{} 00000000:0000 {state}", proc_address(address, port));
        let table = format!("/proc/{}/net/{table}", self.pid());
        self.wait_until(Duration::from_secs(5), "did not listen", |_| {
            std::fs::read_to_string(&table).is_ok_and(|sockets| sockets.contains(&wanted))
        })
    }

    /// Waits until `done` holds; the child ending or time passing is an error.
    pub fn wait_until(
        &mut self,
        limit: Duration,
        otherwise: &str,
        done: impl Fn(&Child) -> bool,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        while !done(self) {
            if let Some(status) = self.ended()? {
                return Err(self.fault(&format!("ended early ({status})")));
            }
            if Instant::now() >= deadline {
                return Err(self.fault(&format!("{otherwise} in {} s", limit.as_secs())));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits for it to end by itself and gives its stdout.
    pub fn finish(&mut self, limit: Duration) -> Result<String, Error> {
        let deadline = Instant::now() + limit;
        loop {
            match self.ended()? {
                Some(status) if status.success() => return Ok(self.stdout()),
                Some(status) => return Err(self.fault(&format!("failed ({status})"))),
                None if Instant::now() >= deadline => {
                    return Err(self.fault(&format!("did not end in {} s", limit.as_secs())));
                }
                None => std::thread::sleep(LOOK),
            }
        }
    }

    /// Asks it to end (SIGTERM) and waits a little, for what it says last.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(3);
        while matches!(self.ended(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.inner.try_wait().map_err(Error::io(format!("wait for {}", self.name)))
    }

    fn fault(&self, what: &str) -> Error {
        let (stderr, stdout) = (self.stderr(), self.stdout());
        let full = |line: &&str| !line.trim().is_empty();
        let last = stderr.lines().rfind(full);
        // iperf3 -J puts its complaint into its JSON.
        let last = last.or_else(|| stdout.lines().find(|line| line.contains("error")));
        let said = match last.or_else(|| stdout.lines().rfind(full)) {
            Some(line) => format!("{what}: {}", line.trim()),
            None => what.to_owned(),
        };
        Error::Program { program: self.name.clone(), said }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // An empty group is the aim.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The leader is unreaped until `wait`, or it ended and its group id is
        // kept by members still alive; only a group that is wholly gone could
        // be reused, and pids do not come round within one run.
        self.signal(Signal::KILL);
        let _ = self.inner.wait();
    }
}

/// An address as /proc/net/tcp prints it: the bytes as one native integer.
fn proc_address(address: Ipv4Addr, port: u16) -> String {
    format!("{:08X}:{port:04X}", u32::from_ne_bytes(address.octets()))
}

fn read_lossy(path: &std::path::Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_look_as_in_proc() {
        assert_eq!(proc_address(Ipv4Addr::new(10, 77, 1, 1), 8080), "01014D0A:1F90");
    }
}
