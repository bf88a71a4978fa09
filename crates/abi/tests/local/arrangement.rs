//! Where the two ends of a case live: in two processes that were forked, in two that were
//! started by themselves, or in two threads.

use crate::end::{End, Place, Side};
use crate::modes::ONE_SIDED;
use crate::{Case, all};
use Arrangement::{Apart, Forked, Threads};
use libc::c_int;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrangement {
    Forked,
    Apart,
    Threads,
}

/// Longest text of one end.
const TEXT_MAX: usize = 128 << 10;

/// Plays what the arguments ask for, if they do.
pub fn is_part_of_a_case(args: &[String]) -> Option<ExitCode> {
    match args {
        [flag, arrangement, name] if flag == "--case" => {
            let arrangement =
                [Forked, Apart, Threads].into_iter().find(|a| format!("{a:?}") == *arrangement);
            let text = play(find(name), arrangement.unwrap());
            print!("{text}");
        }
        [flag, place, name, side, report] if flag == "--end" => {
            let place = if place == "Near" { Place::Near } else { Place::Far };
            let side = Side::from_raw(side.parse().unwrap());
            tell(report.parse().unwrap(), &one_end(find(name), place, side));
        }
        [flag, what, fd, count] if flag == "--program" && what == "answer" => {
            crate::programs::answer(fd, count);
        }
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

fn find(name: &str) -> &'static Case {
    all().find(|case| case.name == name).unwrap()
}

/// Both ends of a case, to their end. What they saw.
fn play(case: &'static Case, arrangement: Arrangement) -> String {
    let (near_side, far_side) = Side::pair();
    if arrangement == Threads {
        let near = std::thread::spawn(|| one_end(case, Place::Near, near_side));
        let far = one_end(case, Place::Far, far_side);
        return near.join().unwrap() + &far;
    }
    let (near_report, near_told) = seqpacket();
    let (far_report, far_told) = seqpacket();
    let near = process(case, arrangement, Place::Near, &near_side, near_told, &far_side);
    let far = process(case, arrangement, Place::Far, &far_side, far_told, &near_side);
    drop((near_side, far_side));
    for pid in [near, far] {
        let mut status = 0;
        // SAFETY: the status lives through the call.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0, "an end failed");
    }
    told(near_report) + &told(far_report)
}

/// Starts one end as a process.
fn process(
    case: &'static Case,
    arrangement: Arrangement,
    place: Place,
    side: &Side,
    report: c_int,
    others: &Side,
) -> libc::pid_t {
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid > 0 {
        return pid;
    }
    others.forget();
    let side = Side::from_raw(side.number());
    if arrangement == Forked {
        let done = std::panic::catch_unwind(|| tell(report, &one_end(case, place, side)));
        // SAFETY: does not return.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--end", &format!("{place:?}"), case.name]);
    command.args([side.number().to_string(), report.to_string()]);
    if let Some(library) = std::env::var_os(ONE_SIDED)
        && place == Place::Near
    {
        command.env("LD_PRELOAD", library);
    }
    panic!("exec: {}", command.exec());
}

fn one_end(case: &Case, place: Place, side: Side) -> String {
    let mut end = End::new(place, side);
    if case.plan.connected {
        end.connect();
        end.warm_up();
    }
    (case.run)(&mut end);
    // An end that went first would close what it has not closed.
    end.meet();
    end.text()
}

fn seqpacket() -> (c_int, c_int) {
    let mut fds = [0; 2];
    // SAFETY: room for two.
    let made =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) };
    assert_eq!(made, 0);
    (fds[0], fds[1])
}

fn tell(report: c_int, text: &str) {
    assert!(text.len() < TEXT_MAX);
    // SAFETY: the text lives through the call.
    let sent = unsafe { libc::send(report, text.as_ptr().cast(), text.len(), 0) };
    assert_eq!(sent, text.len() as isize);
}

fn told(report: c_int) -> String {
    let mut bytes = vec![0; TEXT_MAX];
    let at = bytes.as_mut_ptr().cast();
    // SAFETY: the bytes live through the call.
    let count = unsafe { libc::recv(report, at, TEXT_MAX, libc::MSG_DONTWAIT) };
    bytes.truncate(usize::try_from(count).expect("an end said nothing"));
    String::from_utf8(bytes).unwrap()
}
