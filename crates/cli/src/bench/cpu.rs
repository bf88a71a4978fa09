//! What a relay cost, read off /proc: processor time, memory, descriptors.
//!
//! A relay is a process group (see [`super::child`]), so a forking one is
//! counted whole. Time of children that ended and were reaped is in their
//! parent's `cutime` and `cstime`; it is added, or socat would look free.

use std::fs;

/// One clock tick of /proc in milliseconds. USER_HZ is 100 on every Linux
/// architecture that runs this; the kernel scales it, not CONFIG_HZ.
const TICK_MS: f64 = 10.0;

/// One process, as /proc/PID/stat has it.
#[derive(Debug, PartialEq)]
struct Stat {
    group: u32,
    /// utime + stime + cutime + cstime, in ticks.
    ticks: u64,
}

/// Processor time that the group has used so far, ms.
pub fn group_cpu_ms(group: u32) -> f64 {
    let ticks: u64 = members(group).iter().map(|(_, stat)| stat.ticks).sum();
    ticks as f64 * TICK_MS
}

/// Processor time that everybody else's programs have used so far, ms: all
/// but these groups and the kernel's own threads, whose work may be ours.
pub fn foreign_cpu_ms(ours: &[u32]) -> f64 {
    let theirs = |stat: &Stat| stat.group != 0 && !ours.contains(&stat.group);
    let ticks: u64 = processes().filter(|(_, stat)| theirs(stat)).map(|(_, stat)| stat.ticks).sum();
    ticks as f64 * TICK_MS
}

/// The benchmark's own process group, for [`foreign_cpu_ms`].
pub fn own_group() -> u32 {
    rustix::process::getpgrp().as_raw_nonzero().get().unsigned_abs()
}

/// Processor time that the group's living threads have used so far, ms, to
/// the nanosecond where the kernel keeps it (schedstat): idle relays use less
/// than a tick. Falls back to ticks.
pub fn group_cpu_fine_ms(group: u32) -> f64 {
    let mut ns = 0_u64;
    for (pid, _) in members(group) {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for task in tasks.flatten() {
            let used = fs::read_to_string(task.path().join("schedstat")).ok();
            match used.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()) {
                Some(used) => ns += used,
                None => return group_cpu_ms(group),
            }
        }
    }
    ns as f64 / 1e6
}

/// Anonymous resident memory of the group, bytes.
pub fn group_memory(group: u32) -> u64 {
    members(group)
        .iter()
        .filter_map(|(pid, _)| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .filter_map(|status| parse_rss_anon(&status))
        .sum()
}

/// Descriptors of one kind that the group holds: "pipe", "socket".
pub fn group_descriptors(group: u32, kind: &str) -> usize {
    let kind = format!("{kind}:");
    members(group)
        .iter()
        .filter_map(|(pid, _)| fs::read_dir(format!("/proc/{pid}/fd")).ok())
        .flat_map(|fds| fds.flatten())
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with(&kind))
        .count()
}

/// Busy time of all processors since boot, ms, interrupts included.
pub fn system_cpu_ms() -> f64 {
    fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|text| parse_system(&text))
        .map_or(0.0, |ticks| ticks as f64 * TICK_MS)
}

fn members(group: u32) -> Vec<(u32, Stat)> {
    processes().filter(|(_, stat)| stat.group == group).collect()
}

fn processes() -> impl Iterator<Item = (u32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((pid, parse_stat(&stat)?))
    })
}

/// The command name may hold spaces and parentheses: fields count from the
/// last ')'.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        group: fields.get(2)?.parse().ok()?,
        ticks: ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?,
    })
}

/// user nice system idle iowait irq softirq steal: all but idle, iowait and
/// steal (which is another machine's time). Guest time is within user.
fn parse_system(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|n| n.parse().ok()).collect();
    Some(ticks.get(..3)?.iter().sum::<u64>() + ticks.get(5..7)?.iter().sum::<u64>())
}

fn parse_rss_anon(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_a_hostile_name() {
        let text = "42 (a) b (c) S 1 777 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99 5 6";
        let expected = Stat { group: 777, ticks: 127 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("42 (short) S 1"), None);
    }

    #[test]
    fn system_time_leaves_out_idle_iowait_and_steal() {
        let text = "cpu  1 2 4 1000 2000 8 16 4000 0 0\ncpu0 9 9 9 9\n";
        assert_eq!(parse_system(text), Some(31));
        assert_eq!(parse_system("cpu  1 2"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(parse_rss_anon("VmRSS:\t 9 kB\nRssAnon:\t     128 kB\n"), Some(131_072));
        assert_eq!(parse_rss_anon("Name: x"), None);
    }
}
