//! Each policy by its distribution. Chance comes from a generator with a fixed seed.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

/// Servers by weight, all idle and eligible.
fn idle(weights: &[u32]) -> Vec<Candidate> {
    let candidate = |(index, &weight): (usize, &u32)| Candidate {
        is_eligible: true,
        index,
        weight,
        sessions: 0,
        chosen: 0,
        key: name_key(&format!("server-{index}")),
    };
    weights.iter().enumerate().map(candidate).collect()
}

fn client(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

/// A chooser, and what it needs.
struct Trial {
    chooser: Chooser,
    servers: Vec<Candidate>,
    chance: fastrand::Rng,
    turn: u64,
}

impl Trial {
    fn new(balance: Balance, weights: &[u32]) -> Self {
        Self {
            chooser: Chooser::new(balance, weights.len()),
            servers: idle(weights),
            chance: fastrand::Rng::with_seed(7),
            turn: 0,
        }
    }

    fn choose_for(&mut self, client: IpAddr) -> usize {
        let Self { chooser, servers, chance, turn } = self;
        let chosen = chooser.choose(servers.iter().copied(), client, |n| chance.u64(..n)).unwrap();
        *turn += 1;
        let place = servers.iter().position(|server| server.index == chosen).unwrap();
        servers[place].chosen = *turn;
        chosen
    }

    fn choose(&mut self) -> usize {
        self.choose_for(client(1))
    }

    /// The one that is chosen has a session more.
    fn begin(&mut self) -> usize {
        let chosen = self.choose();
        self.servers[chosen].sessions += 1;
        chosen
    }

    /// How often each is chosen.
    fn counts(&mut self, choices: usize) -> Vec<usize> {
        let mut counts = vec![0; self.servers.len()];
        (0..choices).for_each(|_| counts[self.choose()] += 1);
        counts
    }

    fn without(&mut self, index: usize) {
        self.servers.retain(|server| server.index != index);
    }
}

/// Within four standard deviations of what a fair choice gives.
fn assert_share(count: usize, of: usize, share: f64) {
    let expected = of as f64 * share;
    let deviation = (expected * (1.0 - share)).sqrt();
    assert!((count as f64 - expected).abs() < 4.0 * deviation, "{count} of {of}, not {share}");
}

#[test]
fn round_robin_gives_each_its_weight_without_bursts() {
    let mut trial = Trial::new(Balance::RoundRobin, &[5, 1, 1]);
    let turns: Vec<_> = (0..14).map(|_| trial.choose()).collect();
    assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn round_robin_passes_over_who_is_not_eligible_and_makes_up_for_a_little() {
    let mut trial = Trial::new(Balance::RoundRobin, &[1, 1]);
    assert_eq!(trial.choose(), 0);
    trial.servers[0].is_eligible = false;
    assert_eq!(trial.choose(), 1);
    trial.servers[0].is_eligible = true;
    // The turn of the second was its own: the first is next.
    assert_eq!(trial.choose(), 0);
    trial.servers[0].is_eligible = false;
    assert_eq!(trial.counts(1000), [0, 1000]);
    trial.servers[0].is_eligible = true;
    let first = (0..20).filter(|_| trial.choose() == 0).count();
    assert!((10..=12).contains(&first), "{first} of 20 for a server that is back");
}

#[test]
fn round_robin_goes_on_fairly_without_a_server_that_is_gone() {
    let mut trial = Trial::new(Balance::RoundRobin, &[2, 3, 1]);
    trial.counts(4);
    trial.without(1);
    let mut counts = [0; 3];
    (0..300).for_each(|_| counts[trial.choose()] += 1);
    assert!((198..=202).contains(&counts[0]) && counts[1] == 0, "{counts:?}");
}

proptest! {
    #[test]
    fn a_round_of_round_robin_is_exact(weights in prop::collection::vec(1u32..=1000, 1..9)) {
        let mut trial = Trial::new(Balance::RoundRobin, &weights);
        let total = weights.iter().sum::<u32>() as usize;
        let expected: Vec<_> = weights.iter().map(|weight| *weight as usize).collect();
        prop_assert_eq!(trial.counts(total), expected.clone());
        prop_assert_eq!(trial.counts(total), expected);
    }

    #[test]
    fn only_the_eligible_are_chosen(
        weights in prop::collection::vec(1u32..=1000, 1..9),
        eligible in any::<u16>(),
        balance in prop::sample::select(vec![
            Balance::RoundRobin,
            Balance::LeastConnections,
            Balance::TwoChoices,
            Balance::Random,
            Balance::Source,
        ]),
    ) {
        let mut trial = Trial::new(balance, &weights);
        let is_eligible = |index: usize| eligible & (1 << index) != 0;
        for server in &mut trial.servers {
            server.is_eligible = is_eligible(server.index);
        }
        let Trial { chooser, servers, chance, .. } = &mut trial;
        for number in 0..32 {
            let servers = servers.iter().copied();
            match chooser.choose(servers, client(number), |n| chance.u64(..n)) {
                Some(index) => prop_assert!(is_eligible(index)),
                None => prop_assert!((0..weights.len()).all(|index| !is_eligible(index))),
            }
        }
    }
}

#[test]
fn least_connections_goes_by_sessions_for_the_weight() {
    let mut trial = Trial::new(Balance::LeastConnections, &[3, 1]);
    for _ in 0..400 {
        trial.begin();
    }
    assert_eq!(trial.servers[0].sessions, 300);
    assert_eq!(trial.servers[1].sessions, 100);
    trial.servers[0].sessions = 297;
    assert_eq!([trial.begin(), trial.begin(), trial.begin()], [0, 0, 0]);
}

#[test]
fn least_connections_gives_equals_their_turns_whatever_the_others_have() {
    let mut trial = Trial::new(Balance::LeastConnections, &[1, 1, 1]);
    trial.servers[0].sessions = 5;
    // Each session has ended before the next.
    assert_eq!(trial.counts(100), [0, 50, 50]);
}

#[test]
fn two_choices_takes_the_less_loaded_of_any_two() {
    let mut trial = Trial::new(Balance::TwoChoices, &[1, 1, 1, 1]);
    for (sessions, server) in trial.servers.iter_mut().enumerate() {
        server.sessions = sessions as u64;
    }
    let counts = trial.counts(60_000);
    // Of the six pairs the least loaded is in three, the next the lesser of two, and so on.
    for (count, share) in counts.iter().zip([3.0 / 6.0, 2.0 / 6.0, 1.0 / 6.0]) {
        assert_share(*count, 60_000, share);
    }
    assert_eq!(counts[3], 0);
}

#[test]
fn two_choices_among_equals_is_even_and_by_weight_otherwise() {
    let mut trial = Trial::new(Balance::TwoChoices, &[1, 1, 1, 1, 1]);
    for count in trial.counts(50_000) {
        assert_share(count, 50_000, 0.2);
    }
    let mut trial = Trial::new(Balance::TwoChoices, &[10, 1]);
    trial.servers[0].sessions = 9;
    trial.servers[1].sessions = 1;
    assert_eq!(trial.counts(100), [100, 0]);
    trial.servers[0].sessions = 11;
    assert_eq!(trial.counts(100), [0, 100]);
    let mut trial = Trial::new(Balance::TwoChoices, &[1]);
    assert_eq!(trial.counts(10), [10]);
}

#[test]
fn random_goes_by_weight() {
    let mut trial = Trial::new(Balance::Random, &[1, 2, 3, 4]);
    for (index, count) in trial.counts(100_000).into_iter().enumerate() {
        assert_share(count, 100_000, (index + 1) as f64 / 10.0);
    }
}

#[test]
fn source_goes_by_weight() {
    let mut trial = Trial::new(Balance::Source, &[1, 2, 3, 4]);
    let mut counts = [0; 4];
    (0..100_000).for_each(|number| counts[trial.choose_for(client(number))] += 1);
    for (index, count) in counts.into_iter().enumerate() {
        assert_share(count, 100_000, (index + 1) as f64 / 10.0);
    }
}

#[test]
fn source_moves_only_the_clients_of_a_server_that_goes() {
    let clients = 20_000;
    let mut trial = Trial::new(Balance::Source, &[1; 10]);
    let before: Vec<_> = (0..clients).map(|number| trial.choose_for(client(number))).collect();
    trial.without(4);
    let after: Vec<_> = (0..clients).map(|number| trial.choose_for(client(number))).collect();
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert_eq!(moved, before.iter().filter(|server| **server == 4).count());
    assert_share(moved, clients as usize, 0.1);
    // And they are spread over all others.
    for server in (0..10).filter(|server| *server != 4) {
        let heirs = before.iter().zip(&after).filter(|(b, a)| **b == 4 && **a == server).count();
        assert_share(heirs, moved, 1.0 / 9.0);
    }
}

#[test]
fn source_is_the_same_in_every_process_and_any_order_of_servers() {
    let mut trial = Trial::new(Balance::Source, &[1, 1, 1, 1, 1]);
    let mut turned = Trial::new(Balance::Source, &[1, 1, 1, 1, 1]);
    turned.servers.rotate_left(2);
    let chosen: Vec<_> = (0..16).map(|number| trial.choose_for(client(number))).collect();
    assert_eq!(chosen, (0..16).map(|number| turned.choose_for(client(number))).collect::<Vec<_>>());
    // If these change, an upgrade moves everybody's clients.
    assert_eq!(chosen, [4, 4, 1, 4, 2, 4, 0, 3, 2, 1, 2, 1, 4, 0, 1, 4]);
    let v6 = trial.choose_for("2001:db8::7".parse().unwrap());
    assert_eq!(v6, 4);
}

#[test]
fn source_takes_a_mapped_address_for_the_one_that_it_maps() {
    let mut trial = Trial::new(Balance::Source, &[1; 8]);
    for number in 0..64 {
        let IpAddr::V4(v4) = client(number) else { panic!("not IPv4") };
        assert_eq!(trial.choose_for(v4.into()), trial.choose_for(v4.to_ipv6_mapped().into()));
    }
}

#[test]
fn source_tells_addresses_of_one_network_apart() {
    let mut trial = Trial::new(Balance::Source, &[1, 1]);
    let of_network = |low: u128| IpAddr::V6((0x2001_0db8_u128 << 96 | low).into());
    let first = (0..10_000).filter(|low| trial.choose_for(of_network(*low)) == 0).count();
    assert_share(first, 10_000, 0.5);
}
