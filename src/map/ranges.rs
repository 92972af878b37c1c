//! A set of ids, kept as sorted ranges.

use std::fmt;
use std::ops::RangeInclusive;

use super::{MAX_ID, cut};

/// How many ids one list may name. More could not all have a slot on any node this is for,
/// and the bound keeps the answer to a hostile list quick.
pub const MAX_LISTED: u64 = 65_536;

/// Disjoint, sorted, merged ranges of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<RangeInclusive<u32>>);

impl Ranges {
    /// The union of the given ranges.
    pub fn new(mut ranges: Vec<RangeInclusive<u32>>) -> Ranges {
        ranges.retain(|r| !r.is_empty());
        ranges.sort_unstable_by_key(|r| *r.start());
        let mut merged: Vec<RangeInclusive<u32>> = Vec::with_capacity(ranges.len());
        for r in ranges {
            match merged.last_mut() {
                Some(last) if *r.start() as u64 <= *last.end() as u64 + 1 => {
                    *last = *last.start()..=*last.end().max(r.end());
                }
                _ => merged.push(r),
            }
        }
        Ranges(merged)
    }

    /// Single ids.
    pub fn of(ids: Vec<u32>) -> Ranges {
        Ranges::new(ids.into_iter().map(|id| id..=id).collect())
    }

    /// Those of the ids that are to be kept.
    pub fn filter(&self, keep: &dyn Fn(u32) -> bool) -> Ranges {
        Ranges::of(self.ids().filter(|id| keep(*id)).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first ranges, `0-2043, 65532-65535`, and how many more there are.
    pub fn listed(&self, most: usize) -> String {
        let more = self.0.len().saturating_sub(most);
        let shown = Ranges(self.0.iter().take(most).cloned().collect()).to_string().replace(',', ", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    }

    /// The ids of all.
    pub fn union(all: &[&Ranges]) -> Ranges {
        Ranges::new(all.iter().flat_map(|ranges| ranges.iter().cloned()).collect())
    }

    /// Reads `50000,10001-10005`: ids and ranges, separated by commas, at most 65536 ids in all.
    pub fn parse(text: &str) -> Result<Ranges, String> {
        if text.trim().is_empty() {
            return Ok(Ranges::default());
        }
        let mut listed = 0u64;
        let mut ranges = Vec::new();
        for item in text.split(',') {
            let item = item.trim();
            let (first, last) = match item.split_once('-') {
                Some((a, b)) => (parse_id(a)?, parse_id(b)?),
                None => (parse_id(item)?, parse_id(item)?),
            };
            if first > last {
                return Err(format!("range {:?} ends before it starts", cut(item)));
            }
            listed += (last - first) as u64 + 1;
            if listed > MAX_LISTED {
                return Err(format!("more than {MAX_LISTED} ids are listed"));
            }
            ranges.push(first..=last);
        }
        Ok(Ranges::new(ranges))
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: u32) -> bool {
        let after = self.0.partition_point(|r| *r.start() <= id);
        after > 0 && *self.0[after - 1].end() >= id
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &RangeInclusive<u32>> {
        self.0.iter()
    }

    /// Every id, ascending.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().cloned().flatten()
    }
}

/// As lists are written: `0-2043,65532-65535`.
impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if r.start() == r.end() {
                write!(f, "{comma}{}", r.start())?;
            } else {
                write!(f, "{comma}{}-{}", r.start(), r.end())?;
            }
        }
        Ok(())
    }
}

/// One id, 0 to 4294967294.
fn parse_id(text: &str) -> Result<u32, String> {
    let text = text.trim();
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID && !text.starts_with('+') => Ok(id),
        _ => Err(format!("{:?} is not an id (0-{MAX_ID})", cut(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_merges() {
        let r = Ranges::parse(" 50000, 10001-10005,10006 ,10003-10004").unwrap();
        assert_eq!(r.to_string(), "10001-10006,50000");
        assert_eq!(r.ids().count(), 7);
        assert!(r.contains(10006) && r.contains(50000) && !r.contains(10007) && !r.contains(0));
        assert_eq!(r.listed(2), "10001-10006, 50000");
        assert_eq!(r.listed(1), "10001-10006 and 1 more");
        assert_eq!(Ranges::parse("").unwrap(), Ranges::default());
        assert_eq!(Ranges::parse("4294967294").unwrap().ids().collect::<Vec<_>>(), [MAX_ID]);
    }

    #[test]
    fn refuses_what_is_not_an_id() {
        for (text, error) in [
            ("4294967295", "\"4294967295\" is not an id (0-4294967294)"),
            ("-1", "\"\" is not an id (0-4294967294)"),
            ("+1", "\"+1\" is not an id (0-4294967294)"),
            ("1,,2", "\"\" is not an id (0-4294967294)"),
            ("7-3", "range \"7-3\" ends before it starts"),
            ("0-65536", "more than 65536 ids are listed"),
            ("0-4294967294", "more than 65536 ids are listed"),
            ("root", "\"root\" is not an id (0-4294967294)"),
        ] {
            assert_eq!(Ranges::parse(text).unwrap_err(), error);
        }
    }
}
