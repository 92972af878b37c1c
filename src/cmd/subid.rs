//! Subordinate ids (`subuid(5)`), judged as newuidmap and Podman judge them.

use std::io;
use std::ops::RangeInclusive;

use super::source::read_or_empty;
use crate::map::idmap::{Extent, IdMap};
use crate::map::kind::Kind;
use crate::map::{MAX_ID, cut};
use crate::sys::pipe;

/// The ids that a user may map, in the order in which Podman counts them: his own, then the ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The user's own id; None: it does not matter, or is not known.
    pub own: Option<u32>,
    /// The subordinate ids, lowest first; without their numbers, just how many.
    pub ranges: Ids,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ids {
    Ranges(Vec<RangeInclusive<u32>>),
    /// So many, whichever they are.
    Count(u32),
}

impl Granted {
    /// The namespace that Podman makes of them: the user's own id is 0, the ranges follow, lowest first. Ids that are not
    /// known have the longest numbers.
    pub fn around(&self) -> Result<IdMap, String> {
        let ranges = match &self.ranges {
            Ids::Count(0) => &[][..],
            Ids::Count(count) => &[MAX_ID.saturating_sub(*count)..=MAX_ID - 1],
            Ids::Ranges(ranges) => ranges,
        };
        let own = self.own.unwrap_or(MAX_ID);
        let (mut next, mut extents) = (0u32, Vec::new());
        for range in std::iter::once(&(own..=own)).chain(ranges) {
            let (outside, count) = (*range.start(), range.end() - range.start() + 1);
            extents.push(Extent { inside: next, outside, count });
            next = next.checked_add(count).filter(|n| *n <= MAX_ID).ok_or("more than 2^32-2 ids are given")?;
        }
        Ok(IdMap::joined(extents, &|_| true))
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

/// Adds a range in its place, unless it overlaps one that is there.
pub fn add(ranges: &mut Vec<RangeInclusive<u32>>, more: &RangeInclusive<u32>) -> bool {
    let at = ranges.iter().position(|r| r.end() >= more.start()).unwrap_or(ranges.len());
    let fits = ranges.get(at).is_none_or(|r| more.end() < r.start());
    if fits {
        ranges.insert(at, more.clone());
    }
    fits
}

/// First id and count, as a line has them.
type Pair = (u64, u64);

/// The lines of such a file: the line with its number, its user, and what it grants or why newuidmap passes over it.
pub fn entries(text: &str) -> impl Iterator<Item = (String, &str, Result<Pair, &'static str>)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let (who, range) = line.split_once(':').filter(|_| !line.starts_with('#'))?;
        let blank = if who.trim() == who { Ok(()) } else { Err("a blank beside the name") };
        Some((format!("line {}, {:?}", index + 1, cut(line)), who, blank.and_then(|()| pair(range))))
    })
}

fn pair(text: &str) -> Result<Pair, &'static str> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
    let (first, count) = text.split_once(':').ok_or("FIRST:COUNT is needed")?;
    number(first).zip(number(count)).ok_or("two numbers from 0 to 4294967295 are needed")
}

/// `FIRST:COUNT`.
pub fn parse_range(text: &str) -> Result<RangeInclusive<u32>, String> {
    range(pair(text)?)
}

fn range((first, count): Pair) -> Result<RangeInclusive<u32>, String> {
    let end = first.saturating_add(count);
    match (u32::try_from(first), u32::try_from(end.saturating_sub(1))) {
        _ if count == 0 => Err("the count is 0".into()),
        (Ok(first), Ok(last @ ..=MAX_ID)) => Ok(first..=last),
        _ => Err(format!("the range goes past the last id, {MAX_ID}")),
    }
}

/// What a user has of /etc/subuid or /etc/subgid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subordinate {
    pub ranges: Vec<RangeInclusive<u32>>,
    /// Lines that newuidmap passes over.
    pub ignored: Vec<String>,
    /// Why newuidmap refuses a map of these ranges.
    pub refused: Option<String>,
}

impl Subordinate {
    /// Asks getsubids, which knows directories too, or else reads the file.
    pub fn gather(kind: Kind, user: &User) -> Subordinate {
        let (name, uid, _) = user;
        let path = format!("/etc/sub{kind}");
        let arguments = if kind == Kind::Gid { &["-g", name][..] } else { &[name.as_str()] };
        let refused = |why| Subordinate { refused: Some(why), ..Subordinate::default() };
        let listed = match (pipe::output("getsubids", arguments), source(&read("/etc/nsswitch.conf"))) {
            (Ok(text), _) => Some(text.lines().filter_map(listed).collect()),
            // It ended with a status: it has none to list.
            (Err(e), _) if e.kind() == io::ErrorKind::Other => Some(Vec::new()),
            (Err(e), Some(from)) => return refused(format!("subordinate ids come from {from}; getsubids: {e}")),
            (Err(_), None) => None,
        };
        Subordinate::judge(&path, &read(&path), listed, (name, *uid, own(user, kind)))
    }

    fn judge(path: &str, text: &str, listed: Option<Vec<Pair>>, (name, uid, own): (&str, u32, Option<u32>)) -> Self {
        let mut found = Subordinate::default();
        let uid = uid.to_string();
        let mut lines = Vec::new();
        for (line, _, pair) in entries(text).filter(|(_, who, _)| [name, &uid].contains(&who.trim())) {
            match pair {
                Ok(pair) => lines.push((line, pair)),
                Err(why) => found.ignored.push(format!("{path}: {line}: {why}")),
            }
        }
        let listed = listed.unwrap_or_else(|| lines.iter().map(|(_, pair)| *pair).collect());
        if listed.len() >= lines.len() + found.ignored.len() {
            // It reads what we do not, such as 0x186a0.
            found.ignored.clear();
        }
        for pair in listed {
            let why = match range(pair) {
                Ok(range) if own.is_some_and(|own| range.contains(&own)) => "the user's own id is in it".into(),
                Ok(range) if add(&mut found.ranges, &range) => continue,
                Ok(_) => "overlaps another line of this user".into(),
                Err(why) => why,
            };
            let line = lines.iter().rfind(|(_, p)| *p == pair).map(|(line, _)| line.clone());
            let line = line.unwrap_or_else(|| format!("{}:{}", pair.0, pair.1));
            found.refused.get_or_insert(format!("{path}: {line}: {why}"));
        }
        found
    }

    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|r| u64::from(r.end() - r.start()) + 1).sum()
    }

    /// All of it, or why nothing comes of it.
    pub fn granted(self, name: &str, own: Option<u32>) -> Result<Granted, String> {
        match (self.refused, self.ranges.is_empty()) {
            (Some(why), _) => Err(why),
            (None, true) => {
                let why = self.ignored.first().map(|line| format!(" ({line})")).unwrap_or_default();
                Err(format!("{name} has no subordinate ids{why}; try --subuid COUNT, or see subuid(5)"))
            }
            (None, false) => Ok(Granted { own, ranges: Ids::Ranges(self.ranges) }),
        }
    }
}

/// A line of getsubids: `0: NAME FIRST COUNT`.
fn listed(line: &str) -> Option<Pair> {
    let last = |(_, first), word: &str| (first, word.parse().ok());
    let (first, count) = line.split(' ').fold((None, None), last);
    first.zip(count)
}

/// Where /etc/nsswitch.conf has subordinate ids come from, if not from the files.
pub fn source(nsswitch: &str) -> Option<String> {
    let line = nsswitch.lines().find_map(|line| line.strip_prefix("subid:"))?;
    let source = line.split('#').next()?.split_ascii_whitespace().next()?;
    (source != "files").then(|| source.to_owned())
}

/// A user: login name, uid and primary gid.
pub type User = (String, u32, Option<u32>);

/// The user's own id of a kind, where it is known.
pub fn own((_, uid, gid): &User, kind: Kind) -> Option<u32> {
    if kind == Kind::Gid { *gid } else { Some(*uid) }
}

/// A user by name or number, as getent knows all, or else /etc/passwd. newuidmap maps nothing for anybody else.
pub fn user(asked: &str) -> Result<User, String> {
    let found = match pipe::output("getent", &["passwd", asked]) {
        Ok(line) => line.lines().find_map(account),
        Err(_) => named(&read("/etc/passwd"), asked),
    };
    found.ok_or_else(|| format!("there is no user {asked:?}, so newuidmap maps no ids for it; try --subuid COUNT"))
}

fn read(path: &str) -> String {
    read_or_empty(path, 16 << 20)
}

fn named(passwd: &str, asked: &str) -> Option<User> {
    let number = asked.parse().ok();
    passwd.lines().filter_map(account).find(|(name, uid, _)| name == asked || Some(*uid) == number)
}

fn account(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str, listed: Option<&[Pair]>) -> Subordinate {
        Subordinate::judge("/etc/subuid", text, listed.map(<[Pair]>::to_vec), ("alice", 1000, Some(1000)))
    }

    #[test]
    fn ranges_of_a_user() {
        let text = "# comment\nalice:200000:2048\nbob:1:65536\n1000:300000:10\n\nalice:400000:1\nalice2:1:1\n";
        let found = judged(text, None);
        assert_eq!(found.ranges, [200_000..=202_047, 300_000..=300_009, 400_000..=400_000]);
        assert_eq!((found.count(), &found.ignored, &found.refused), (2059, &vec![], &None));
        let granted = found.granted("alice", Some(1000)).unwrap();
        assert_eq!(granted.describe(), "1000, 200000-202047, 300000-300009, 400000-400000");
        let around = granted.around().unwrap();
        assert_eq!(around.to_string(), "0 1000 1\n1 200000 2048\n2049 300000 10\n2059 400000 1\n");
        let error = Subordinate::default().granted("alice", None).unwrap_err();
        assert_eq!(error, "alice has no subordinate ids; try --subuid COUNT, or see subuid(5)");
    }

    #[test]
    fn podman_counts_the_lowest_range_first() {
        let granted = |own, ranges| Granted { own, ranges };
        let around = |own, ranges| granted(own, ranges).around().map(|map| map.to_string());
        let mut ranges = Vec::new();
        for (range, fits) in [(200..=209, true), (6..=7, true), (209..=210, false), (0..=6, false), (8..=199, true)] {
            assert_eq!(add(&mut ranges, &range), fits);
        }
        assert_eq!(ranges, [6..=7, 8..=199, 200..=209]);
        let text = around(Some(5), Ids::Ranges(vec![6..=7, 200_000..=200_009]));
        assert_eq!(text.unwrap(), "0 5 1\n1 6 2\n3 200000 10\n");
        assert_eq!(around(None, Ids::Count(10)).unwrap(), "0 4294967294 1\n1 4294967284 10\n");
        assert_eq!(around(None, Ids::Count(0)).unwrap(), "0 4294967294 1\n");
        assert_eq!(around(None, Ids::Count(u32::MAX - 1)).unwrap_err(), "more than 2^32-2 ids are given");
        assert_eq!(granted(None, Ids::Count(2048)).describe(), "your own id, 2048 subordinate ids");
    }

    /// Each was tried with newuidmap 4.13 and Podman 4.3.
    #[test]
    fn what_is_passed_over_and_what_is_refused() {
        for (lines, why) in [
            ("alice:100000:2048 ", "line 1, \"alice:100000:2048 \": two numbers from 0 to 4294967295 are needed"),
            (" alice:100000:2048", "line 1, \" alice:100000:2048\": a blank beside the name"),
            ("alice:100000:2048:x", "line 1, \"alice:100000:2048:x\": two numbers from 0 to 4294967295 are needed"),
            ("alice:100000:+5", "line 1, \"alice:100000:+5\": two numbers from 0 to 4294967295 are needed"),
            ("1000:1", "line 1, \"1000:1\": FIRST:COUNT is needed"),
        ] {
            let found = judged(lines, Some(&[]));
            assert_eq!((found.ignored, found.refused), (vec![format!("/etc/subuid: {why}")], None));
        }
        for (lines, why) in [
            (
                "alice:5000:2048\nbob:6000:9\nalice:6000:2048",
                "line 3, \"alice:6000:2048\": overlaps another line of this user",
            ),
            ("alice:5000:1\nalice:5000:1", "line 2, \"alice:5000:1\": overlaps another line of this user"),
            ("alice:900:2048", "line 1, \"alice:900:2048\": the user's own id is in it"),
            ("alice:4294967290:6", "line 1, \"alice:4294967290:6\": the range goes past the last id, 4294967294"),
            (
                "alice:18446744073709551615:2",
                "line 1, \"alice:18446744073709551615:2\": the range goes past the last id, 4294967294",
            ),
            ("alice:7:0\nalice:5000:9", "line 1, \"alice:7:0\": the count is 0"),
        ] {
            let found = judged(lines, None);
            assert_eq!((found.refused.is_some(), found.ignored.len()), (true, 0), "{lines}");
            assert_eq!(found.granted("alice", None).unwrap_err(), format!("/etc/subuid: {why}"));
        }
        let none = judged("x\nalice:5:x", Some(&[])).granted("alice", None).unwrap_err();
        assert!(
            none.starts_with("alice has no subordinate ids (/etc/subuid: line 2, \"alice:5:x\": two numbers"),
            "{none}"
        );
        // getsubids has the last word: it reads other notations, and knows ids that are in no file.
        let hex = judged("alice:0x186a0:2048\n", Some(&[(100_000, 2048)]));
        assert_eq!((hex.count(), hex.ignored.len()), (2048, 0));
        assert_eq!(judged("alice:5:x\nalice:7000:1", Some(&[(7000, 1)])).ignored.len(), 1);
        assert_eq!(judged("", Some(&[(999, 2)])).refused.unwrap(), "/etc/subuid: 999:2: the user's own id is in it");
        assert_eq!(listed("1: DOM\\a b 100000 2048"), Some((100_000, 2048)));
        assert_eq!(listed("Error fetching ranges"), None);
        assert_eq!(judged("\0::\u{fffd}\nalice\n", None), Subordinate::default());
    }

    #[test]
    fn ranges_are_read() {
        let error = |text| parse_range(text).unwrap_err();
        assert_eq!(error("1"), "FIRST:COUNT is needed");
        assert_eq!(error("1:0"), "the count is 0");
        assert_eq!(error("-1:1"), "two numbers from 0 to 4294967295 are needed");
        assert_eq!(error("4294967290:6"), "the range goes past the last id, 4294967294");
        assert_eq!(parse_range("4294967290:5"), Ok(4_294_967_290..=4_294_967_294));
    }

    #[test]
    fn users_by_name_or_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:100::/:\nbroken\nodd:x:y:1::\n";
        let alice = Some(("alice".into(), 1000, Some(100)));
        assert_eq!((named(passwd, "alice"), named(passwd, "1000")), (alice.clone(), alice));
        assert_eq!((named(passwd, "1001"), named(passwd, "carol")), (None, None));
        assert_eq!(user("0"), Ok(("root".into(), 0, Some(0))));
        let error = user("no-such\nuser").unwrap_err();
        assert!(error.starts_with("there is no user \"no-such\\nuser\", so newuidmap maps no ids for it"), "{error}");
    }

    #[test]
    fn sources_are_read() {
        assert_eq!(source("passwd: files\nsubid:\tsss # central\n").as_deref(), Some("sss"));
        assert_eq!((source("passwd: files\nsubid:  files\n"), source("subid:"), source("")), (None, None, None));
    }
}
