//! Numbers of things in messages.

/// As `1 relay`, `2 relays`.
#[must_use]
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_not_several() {
        let told = [0, 1, 2].map(|count| counted(count, "relay"));
        assert_eq!(told, ["0 relays", "1 relay", "2 relays"]);
    }
}
