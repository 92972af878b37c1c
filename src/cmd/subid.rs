//! Subordinate ids, as `/etc/subuid` and `/etc/subgid` grant them (`subuid(5)`).

use std::ops::RangeInclusive;

use crate::map::{MAX_ID, cut};

/// The ids that a user may map, in the order in which Podman counts them: his own, then the ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// The user's own id; None: it does not matter, or is not known.
    pub own: Option<u32>,
    /// The subordinate ids, in the file's order; without their numbers, just how many.
    pub ranges: Ids,
}

/// Subordinate ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ids {
    /// These.
    Ranges(Vec<RangeInclusive<u32>>),
    /// So many, whichever they are.
    Count(u32),
}

impl Default for Ids {
    fn default() -> Ids {
        Ids::Count(0)
    }
}

impl Granted {
    /// How many, the user's own among them.
    pub fn total(&self) -> Result<u32, String> {
        let subordinate = match &self.ranges {
            Ids::Count(count) => u64::from(*count),
            Ids::Ranges(ranges) => ranges.iter().map(|r| u64::from(r.end() - r.start()) + 1).sum(),
        };
        u32::try_from(subordinate + 1)
            .ok()
            .filter(|n| *n <= MAX_ID)
            .ok_or_else(|| "more than 2^32-2 ids are given".into())
    }

    /// Where one range ends and the next one begins, counted from the user's own id on.
    pub fn cuts(&self) -> Vec<u32> {
        let mut at = 1u32;
        let ends = |r: &RangeInclusive<u32>| {
            at = at.saturating_add(r.end() - r.start()).saturating_add(1);
            at
        };
        let after: Vec<u32> = match &self.ranges {
            Ids::Count(_) => Vec::new(),
            Ids::Ranges(ranges) => ranges.iter().map(ends).collect(),
        };
        std::iter::once(1).chain(after).collect()
    }

    /// As it is told: `1000, 100000-102047`.
    pub fn describe(&self) -> String {
        let own = self.own.map_or("your own id".to_owned(), |id| id.to_string());
        match &self.ranges {
            Ids::Count(count) => format!("{own}, {count} subordinate ids"),
            Ids::Ranges(ranges) => {
                let list = ranges.iter().map(|r| format!(", {}-{}", r.start(), r.end()));
                list.fold(own, |all, range| all + &range)
            }
        }
    }
}

/// Whether `more` overlaps none of the ranges.
pub fn is_new(ranges: &[RangeInclusive<u32>], more: &RangeInclusive<u32>) -> bool {
    ranges.iter().all(|r| more.end() < r.start() || more.start() > r.end())
}

/// The lines of such a file, each with its number, its user and its range. Comments and blank lines are none.
pub fn entries(text: &str) -> impl Iterator<Item = (usize, &str, Result<RangeInclusive<u32>, String>)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let (who, range) = line.trim().split_once(':')?;
        let shown = || format!("line {}, {:?}", index + 1, cut(line.trim()));
        (!who.starts_with('#'))
            .then(|| (index + 1, who, parse_range(range).map_err(|why| format!("{}: {why}", shown()))))
    })
}

/// The ranges of a user, by login name or number. Lines of others are not looked at.
pub fn parse(text: &str, name: &str, uid: Option<u32>) -> Result<Vec<RangeInclusive<u32>>, String> {
    let uid = uid.map(|uid| uid.to_string());
    let mut ranges = Vec::new();
    for (number, _, range) in entries(text).filter(|(_, who, _)| *who == name || Some(*who) == uid.as_deref()) {
        let range = range?;
        // Twice the same ids would make a map that the kernel refuses.
        if !is_new(&ranges, &range) {
            return Err(format!("line {number} overlaps an earlier range of this user"));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

/// `FIRST:COUNT`.
pub fn parse_range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    let (first, count) = text.split_once(':').ok_or("FIRST:COUNT is needed")?;
    let (Some(first), Some(count)) = (number(first), number(count)) else {
        return Err("two numbers from 0 to 4294967295 are needed".into());
    };
    match first.checked_add(count.saturating_sub(1)) {
        _ if count == 0 => Err("the count is 0".into()),
        Some(last) if last <= MAX_ID => Ok(first..=last),
        _ => Err(format!("the range goes past the last id, {MAX_ID}")),
    }
}

/// The login name, uid and primary gid of a user, given by name or number, as `/etc/passwd` has them. A number need not be
/// there: directories such as LDAP are not asked.
pub fn user(passwd: &str, asked: &str) -> Option<(String, u32, Option<u32>)> {
    let number = asked.parse::<u32>().ok();
    let mut entries = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, uid, gid) = (fields.next()?, fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok());
        Some((name.to_owned(), uid, gid))
    });
    entries
        .find(|(name, uid, _)| name == asked || Some(*uid) == number)
        .or_else(|| Some((asked.to_owned(), number?, None)))
}

/// The same of who runs this; one who is not in the file goes by the name that he has logged in with.
pub fn current(passwd: &str, uid: u32, login: Option<String>) -> (String, u32, Option<u32>) {
    let number = uid.to_string();
    match user(passwd, &number) {
        Some((name, uid, gid)) if name != number => (name, uid, gid),
        _ => (login.filter(|name| !name.is_empty()).unwrap_or(number), uid, None),
    }
}

/// `$USER`.
pub fn login() -> Option<String> {
    std::env::var("USER").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_user() {
        let text = "# comment\nalice:100000:2048\nbob:200000:65536\n1000:300000:10\n\nalice:400000:1\nalice2:1:1\n";
        assert_eq!(
            parse(text, "alice", Some(1000)).unwrap(),
            [100_000..=102_047, 300_000..=300_009, 400_000..=400_000]
        );
        assert_eq!(parse(text, "nobody", Some(65534)).unwrap(), []);
        let granted = Granted { own: Some(1000), ranges: Ids::Ranges(parse(text, "alice", Some(1000)).unwrap()) };
        assert_eq!((granted.total(), granted.cuts()), (Ok(2060), vec![1, 2049, 2059, 2060]));
        assert_eq!(granted.describe(), "1000, 100000-102047, 300000-300009, 400000-400000");
        let counted = Granted { own: None, ranges: Ids::Count(2048) };
        assert_eq!((counted.total(), counted.describe().as_str()), (Ok(2049), "your own id, 2048 subordinate ids"));
        assert!(Granted { own: None, ranges: Ids::Count(u32::MAX - 1) }.total().is_err());
    }

    #[test]
    fn errors_show_the_line() {
        let error = |text| parse(text, "a", None).unwrap_err();
        assert_eq!(error("a:1\n"), "line 1, \"a:1\": FIRST:COUNT is needed");
        assert_eq!(error("b:x:y\na:1:0\n"), "line 2, \"a:1:0\": the count is 0");
        assert_eq!(error("a:x:1\n"), "line 1, \"a:x:1\": two numbers from 0 to 4294967295 are needed");
        assert_eq!(error("a:-1:1\n"), "line 1, \"a:-1:1\": two numbers from 0 to 4294967295 are needed");
        assert_eq!(error("a:1:2:3\n"), "line 1, \"a:1:2:3\": two numbers from 0 to 4294967295 are needed");
        assert_eq!(
            error("a:4294967290:6\n"),
            "line 1, \"a:4294967290:6\": the range goes past the last id, 4294967294"
        );
        assert_eq!(error("a:5:5\na:9:1\n"), "line 2 overlaps an earlier range of this user");
        assert_eq!(parse_range("4294967290:5"), Ok(4_294_967_290..=4_294_967_294));
    }

    #[test]
    fn users_by_name_or_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:100::/:\nbroken\nodd:x:y:1::\n";
        let alice = Some(("alice".into(), 1000, Some(100)));
        assert_eq!((user(passwd, "alice"), user(passwd, "1000")), (alice.clone(), alice));
        assert_eq!(user(passwd, "1001"), Some(("1001".into(), 1001, None)));
        assert_eq!(user(passwd, "carol"), None);
        assert_eq!(current(passwd, 1000, Some("other".into())), ("alice".into(), 1000, Some(100)));
        assert_eq!(current(passwd, 1001, Some("dora".into())), ("dora".into(), 1001, None));
        assert_eq!(current(passwd, 1001, None), ("1001".into(), 1001, None));
    }
}
