//! Each row's judgement and advice, over readings that are well except in one.

use super::super::probe::Pipes;
use super::*;

fn well() -> Readings {
    Readings {
        release: "6.1.0-13-amd64".to_owned(),
        splice_tcp: Tried::Works,
        splice_unix: Tried::Works,
        pipes: Ok(Pipes { unasked: 65_536, given: 1 << 20, refused: None }),
        privileged: Ok(false),
        page_size: 4096,
        pipe_pages_soft: Ok(16_384),
        pipe_pages_hard: Ok(0),
        pipe_size_max: Ok(1 << 20),
        reuse_port: Tried::Works,
        udp_segment: Tried::Works,
        busy_poll: Tried::Works,
        busy_read: Ok(0),
        nofile_soft: 1024,
        nofile_hard: 1_048_576,
        nr_open: Ok(1_048_576),
        file_max: Ok(i64::MAX as u64),
        workers: 2,
        somaxconn: Ok(4096),
        tcp_rmem: Ok([4096, 131_072, 6 << 20]),
        tcp_wmem: Ok([4096, 16_384, 4 << 20]),
        port_range: Ok([32_768, 60_999]),
        tw_reuse: Ok(1),
    }
}

/// The rows that differ from "ok" after `spoil`.
fn spoiled(spoil: impl FnOnce(&mut Readings)) -> Vec<Row> {
    let mut readings = well();
    spoil(&mut readings);
    let mut rows = judge(&readings);
    rows.retain(|row| row.level != Level::Ok);
    rows
}

/// The one row that is not well, its level, and its command.
#[track_caller]
fn only(rows: &[Row], name: &str, level: Level) -> String {
    let [row] = rows else { panic!("{rows:#?}") };
    assert_eq!((row.name, row.level), (name, level), "{row:?}");
    row.change.clone().unwrap_or_default()
}

fn refused() -> Tried {
    Tried::Refused("Operation not permitted".to_owned())
}

#[test]
fn all_is_well() {
    assert_eq!(spoiled(|_| {}), []);
    assert_eq!(judge(&well()).len(), 18);
}

#[test]
fn an_old_kernel_stops_and_takes_with_it_what_it_lacks() {
    let rows = spoiled(|readings| readings.release = "4.17.0".to_owned());
    let names: Vec<_> = rows.iter().map(|row| (row.name, row.level)).collect();
    let expected = [
        ("kernel", Level::Stop),
        ("SO_RCVLOWAT", Level::Note),
        ("UDP_GRO", Level::Note),
        ("SO_PREFER_BUSY_POLL", Level::Note),
    ];
    assert_eq!(names, expected);
    assert!(rows[1].value.contains("by release"));
    let rows = spoiled(|readings| readings.release = "5.10.0".to_owned());
    only(&rows, "SO_PREFER_BUSY_POLL", Level::Note);
    let rows = spoiled(|readings| readings.release = "5.9.16".to_owned());
    assert_eq!(rows[0].level, Level::Stop);
}

#[test]
fn only_splice_between_tcp_sockets_stops() {
    let rows = spoiled(|readings| readings.splice_tcp = refused());
    assert!(only(&rows, "splice tcp", Level::Stop).contains("seccomp"));
    let rows = spoiled(|readings| readings.splice_unix = refused());
    assert_eq!(only(&rows, "splice unix", Level::Note), "");
    let why = Tried::Untried("no TCP on loopback: Network is unreachable".to_owned());
    let rows = spoiled(|readings| readings.splice_tcp = why);
    only(&rows, "splice tcp", Level::Note);
    assert!(rows[0].value.starts_with("unknown: no TCP on loopback"));
}

#[test]
fn a_small_pipe_names_the_limit_behind_it() {
    let given = |readings: &mut Readings, given| {
        readings.pipes = Ok(Pipes {
            unasked: 65_536.min(given),
            given,
            refused: Some("Operation not permitted".to_owned()),
        });
    };
    let rows = spoiled(|readings| {
        given(readings, 262_144);
        readings.pipe_size_max = Ok(262_144);
    });
    let command = only(&rows, "pipe size", Level::Note);
    assert_eq!(command, "sysctl -w fs.pipe-max-size=1048576");
    let rows = spoiled(|readings| given(readings, 65_536));
    let command = only(&rows, "pipe size", Level::Note);
    assert_eq!(command, "sysctl -w fs.pipe-user-pages-soft=32768");
    let rows = spoiled(|readings| given(readings, 8192));
    only(&rows, "pipe size", Level::Warn);
    assert!(rows[0].why.as_ref().is_some_and(|why| why.contains("not permitted")));
    let rows = spoiled(|readings| {
        given(readings, 65_536);
        readings.pipe_pages_hard = Ok(20_000);
    });
    let command = only(&rows, "pipe size", Level::Note);
    assert_eq!(command, "sysctl -w fs.pipe-user-pages-hard=0");
}

#[test]
fn the_pipe_budget_follows_the_workers_and_the_privilege() {
    let many = |readings: &mut Readings| readings.workers = 8;
    let rows = spoiled(many);
    let command = only(&rows, "pipe budget", Level::Note);
    assert_eq!(command, "sysctl -w fs.pipe-user-pages-soft=65536");
    assert!(rows[0].value.starts_with("64 pipes of 1 MiB, or 1024 of 64 KiB"));
    let rows = spoiled(|readings| {
        many(readings);
        readings.privileged = Ok(true);
    });
    assert_eq!(rows, []);
    let rows = spoiled(|readings| {
        many(readings);
        readings.pipe_pages_soft = Ok(0);
    });
    assert_eq!(rows, []);
    let rows = spoiled(|readings| readings.pipe_pages_soft = Ok(256));
    only(&rows, "pipe budget", Level::Warn);
    let rows = spoiled(|readings| readings.pipe_pages_hard = Ok(1024));
    let command = only(&rows, "pipe budget", Level::Note);
    assert!(command.starts_with("sysctl -w fs.pipe-user-pages-hard="));
}

/// The command has to mend what it is printed for.
#[test]
fn advice_on_pipe_pages_is_enough() {
    for workers in [1, 2, 7, 64, 512] {
        for (soft, hard) in [(1, 0), (256, 0), (16_384, 0), (16_384, 300), (0, 300)] {
            let mut readings = Readings {
                workers,
                pipe_pages_soft: Ok(soft),
                pipe_pages_hard: Ok(hard),
                ..well()
            };
            for _ in 0..2 {
                let Some(change) = pipe_budget(&readings).change else {
                    break;
                };
                let (name, pages) = change.split_once('=').expect("a setting");
                let pages = pages.parse().expect("pages");
                match name.ends_with("soft") {
                    true => readings.pipe_pages_soft = Ok(pages),
                    false => readings.pipe_pages_hard = Ok(pages),
                }
            }
            let row = pipe_budget(&readings);
            assert_eq!(row.level, Level::Ok, "{workers} workers: {row:?}");
        }
    }
}

#[test]
fn sockets_that_cannot_do_a_thing_say_what_it_costs() {
    let rows = spoiled(|readings| readings.reuse_port = refused());
    let command = only(&rows, "SO_REUSEPORT", Level::Warn);
    assert_eq!(command, "sosplice relay --workers 1 ...");
    let rows = spoiled(|readings| readings.udp_segment = refused());
    only(&rows, "UDP_SEGMENT", Level::Note);
    let rows = spoiled(|readings| readings.busy_poll = refused());
    assert!(only(&rows, "SO_BUSY_POLL", Level::Note).starts_with("setcap cap_net_admin+ep"));
}

#[test]
fn few_open_files_say_how_to_have_more() {
    let rows = spoiled(|readings| readings.nofile_hard = 4096);
    assert_eq!(only(&rows, "open files", Level::Note), "ulimit -n 65536");
    assert!(rows[0].value.contains("hard 4096: up to "));
    let rows = spoiled(|readings| {
        readings.nofile_hard = 20;
        readings.nr_open = Ok(1024);
    });
    let command = only(&rows, "open files", Level::Warn);
    assert_eq!(command, "sysctl -w fs.nr_open=65536 && ulimit -n 65536");
    let rows = spoiled(|readings| readings.file_max = Ok(10_000));
    let command = only(&rows, "fs.file-max", Level::Warn);
    assert_eq!(command, "sysctl -w fs.file-max=262144");
}

#[test]
fn limits_of_the_network_below_the_kernels_defaults_are_named() {
    let rows = spoiled(|readings| readings.somaxconn = Ok(128));
    let command = only(&rows, "somaxconn", Level::Warn);
    assert_eq!(command, "sysctl -w net.core.somaxconn=4096");
    let rows = spoiled(|readings| readings.tcp_rmem = Ok([1, 2, 212_992]));
    let command = only(&rows, "tcp_rmem", Level::Note);
    assert_eq!(command, "sysctl -w net.ipv4.tcp_rmem=\"1 2 6291456\"");
    let rows = spoiled(|readings| readings.tcp_wmem = Ok([1, 2, 3]));
    let command = only(&rows, "tcp_wmem", Level::Note);
    assert_eq!(command, "sysctl -w net.ipv4.tcp_wmem=\"1 2 4194304\"");
    let rows = spoiled(|readings| readings.port_range = Ok([50_000, 50_099]));
    let command = only(&rows, "local ports", Level::Note);
    assert!(rows[0].value.contains(": 100 connections"));
    assert_eq!(command, "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"");
    for value in [0, 2] {
        let rows = spoiled(|readings| readings.tw_reuse = Ok(value));
        let command = only(&rows, "tcp_tw_reuse", Level::Note);
        assert_eq!(command, "sysctl -w net.ipv4.tcp_tw_reuse=1");
    }
}

/// A container may hide any of it, and all of it at once.
#[test]
fn what_is_missing_is_unknown_and_stops_nothing() {
    let none = || "/proc: No such file or directory".to_owned();
    let rows = judge(&Readings {
        release: String::new(),
        splice_tcp: Tried::Untried(none()),
        splice_unix: Tried::Untried(none()),
        pipes: Err(none()),
        privileged: Err(none()),
        page_size: 0,
        pipe_pages_soft: Err(none()),
        pipe_pages_hard: Err(none()),
        pipe_size_max: Err(none()),
        reuse_port: Tried::Untried(none()),
        udp_segment: Tried::Untried(none()),
        busy_poll: Tried::Untried(none()),
        busy_read: Err(none()),
        nofile_soft: 0,
        nofile_hard: 0,
        nr_open: Err(none()),
        file_max: Err(none()),
        workers: 0,
        somaxconn: Err(none()),
        tcp_rmem: Err(none()),
        tcp_wmem: Err(none()),
        port_range: Err(none()),
        tw_reuse: Err(none()),
    });
    for row in rows.iter().filter(|row| row.name != "open files") {
        assert_eq!(row.level, Level::Note);
        assert!(row.value.starts_with("unknown: "), "{row:?}");
    }
    let odd = spoiled(|readings| readings.release = "what".to_owned());
    assert!(odd.iter().all(|row| row.level == Level::Note));
    // Nonsense in a file is no reason to fail either.
    spoiled(|readings| {
        readings.port_range = Ok([0, u64::MAX]);
        readings.pipe_pages_soft = Ok(u64::MAX);
        readings.pipes = Ok(Pipes { unasked: 0, given: 0, refused: None });
        readings.workers = 1 << 20;
        readings.page_size = u64::MAX;
    });
}

#[test]
fn sizes_are_in_units_that_divide_them() {
    assert_eq!(size(1 << 20), "1 MiB");
    assert_eq!(size(65_536), "64 KiB");
    assert_eq!(size(212_992), "208 KiB");
    assert_eq!(size(7), "7 bytes");
    assert_eq!(size(0), "0 bytes");
}
