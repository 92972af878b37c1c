//! `/proc/PID/uid_map` and `gid_map` text, to and from extents (`user_namespaces(7)`).

use std::fmt;

use super::{MAX_ID, cut};

/// The most lines that the kernel takes in one map (`UID_GID_MAP_MAX_EXTENTS`).
pub const MAX_LINES: usize = 340;
/// The most bytes that the kernel takes in the one write that sets a map: less than a 4 KiB page.
pub const MAX_BYTES: usize = 4095;

/// One line of a map: ids `inside..inside+count` are `outside..outside+count` in the parent namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First id as the namespace itself names it.
    pub inside: u32,
    /// The same id as the parent namespace names it.
    pub outside: u32,
    /// How many ids, at least 1; `inside + count` and `outside + count` are at most 2^32-1.
    pub count: u32,
}

/// A one-to-one map. Extents are sorted by `inside` and do not overlap on either side. Where a run of ids is cut in two is
/// kept: the kernel takes a line of a nested map only if it lies within one line of the map around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    extents: Vec<Extent>,
}

/// Why a text is not a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    line: usize,
    text: String,
    why: &'static str,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the id map, {:?}: {}", self.line, self.text, self.why)
    }
}

impl IdMap {
    /// Reads every form that the kernel prints: three decimal numbers a line, padded with spaces.
    pub fn parse(text: &str) -> Result<IdMap, ParseError> {
        let mut extents = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let fail = |why| ParseError { line: index + 1, text: cut(line), why };
            if index >= MAX_LINES {
                return Err(fail("more than 340 lines"));
            }
            let extent = parse_line(line).map_err(fail)?;
            let clashes = |e: &Extent| {
                overlap(e.inside, e.count, extent.inside, extent.count)
                    || overlap(e.outside, e.count, extent.outside, extent.count)
            };
            if extents.iter().any(clashes) {
                return Err(fail("overlaps an earlier line"));
            }
            extents.push(extent);
        }
        extents.sort_unstable_by_key(|e| e.inside);
        Ok(IdMap { extents })
    }

    /// Builds a map of extents that the caller knows to be disjoint on both sides, with adjacent ones merged.
    pub fn from_disjoint(extents: Vec<Extent>) -> IdMap {
        IdMap::joined(extents, &|_| false)
    }

    /// The same, but extents are not merged where `starts` says that a line of the map around starts at an outside id.
    pub fn joined(mut extents: Vec<Extent>, starts: &dyn Fn(u32) -> bool) -> IdMap {
        extents.sort_unstable_by_key(|e| e.inside);
        let mut merged: Vec<Extent> = Vec::with_capacity(extents.len());
        for e in extents {
            match merged.last_mut() {
                Some(last)
                    if last.inside + last.count == e.inside
                        && last.outside + last.count == e.outside
                        && !starts(e.outside) =>
                {
                    last.count += e.count;
                }
                _ => merged.push(e),
            }
        }
        IdMap { extents: merged }
    }

    /// The extents, sorted by `inside`.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// What the namespace around calls an id; None: the id is not in this namespace.
    pub fn to_outside(&self, id: u32) -> Option<u32> {
        let e = self.extents.iter().find(|e| id >= e.inside && id - e.inside < e.count)?;
        Some(e.outside + (id - e.inside))
    }

    /// The JSON form of `linux.uidMappings` in an OCI runtime configuration.
    pub fn oci(&self) -> String {
        let item =
            |e: &Extent| format!("{{\"containerID\":{},\"hostID\":{},\"size\":{}}}", e.inside, e.outside, e.count);
        format!("[{}]", self.extents.iter().map(item).collect::<Vec<_>>().join(","))
    }

    /// Whether the kernel takes this text in one write: at least a line, at most 340, at most 4095 bytes.
    pub fn fits_kernel(&self) -> bool {
        !self.extents.is_empty() && self.extents.len() <= MAX_LINES && self.to_string().len() <= MAX_BYTES
    }
}

/// The text that is written to `/proc/PID/uid_map`.
impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.extents.iter().try_for_each(|e| writeln!(f, "{} {} {}", e.inside, e.outside, e.count))
    }
}

fn parse_line(line: &str) -> Result<Extent, &'static str> {
    let mut fields = line.split_ascii_whitespace();
    let mut next = || -> Result<u32, &'static str> {
        let field = fields.next().ok_or("three numbers are needed")?;
        // u32::from_str takes a leading '+', which the kernel never prints.
        if !field.bytes().all(|b| b.is_ascii_digit()) {
            return Err("not a decimal number");
        }
        field.parse().map_err(|_| "a number is over 2^32-1")
    };
    let (inside, outside, count) = (next()?, next()?, next()?);
    if fields.next().is_some() {
        return Err("more than three numbers");
    }
    if count == 0 {
        return Err("the count is 0");
    }
    let most = MAX_ID as u64 + 1;
    if inside as u64 + count as u64 > most || outside as u64 + count as u64 > most {
        return Err("the range goes past the last id, 4294967294");
    }
    Ok(Extent { inside, outside, count })
}

fn overlap(a: u32, a_count: u32, b: u32, b_count: u32) -> bool {
    (a as u64) < b as u64 + b_count as u64 && (b as u64) < a as u64 + a_count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        IdMap::parse(text).expect_err("must not parse").to_string()
    }

    #[test]
    fn reads_what_the_kernel_prints() {
        let map = IdMap::parse("         0 2937359488       2044\n     65532 2937361532          4\n").unwrap();
        assert_eq!(map.to_string(), "0 2937359488 2044\n65532 2937361532 4\n");
        let whole = IdMap::parse("         0          0 4294967295\n").unwrap();
        assert_eq!(whole.extents(), [Extent { inside: 0, outside: 0, count: u32::MAX }]);
        assert_eq!(IdMap::parse("").unwrap().extents(), []);
    }

    #[test]
    fn sorts_and_merges_when_asked() {
        let map = IdMap::parse("10 110 5\n0 100 10\n20 500 1\n").unwrap();
        assert_eq!(map.to_string(), "0 100 10\n10 110 5\n20 500 1\n");
        assert_eq!(IdMap::from_disjoint(map.extents().to_vec()).to_string(), "0 100 15\n20 500 1\n");
        // Adjacent inside but not outside: two lines.
        assert_eq!(IdMap::parse("0 1000 1\n1 100000 1999\n").unwrap().extents().len(), 2);
    }

    #[test]
    fn errors_show_the_line() {
        assert_eq!(error("0 1 2\nx 1 2\n"), "line 2 of the id map, \"x 1 2\": not a decimal number");
        assert_eq!(error("0 1\n"), "line 1 of the id map, \"0 1\": three numbers are needed");
        assert_eq!(error("\n"), "line 1 of the id map, \"\": three numbers are needed");
        assert_eq!(error("0 0 1 1\n"), "line 1 of the id map, \"0 0 1 1\": more than three numbers");
        assert_eq!(error("0 0 0\n"), "line 1 of the id map, \"0 0 0\": the count is 0");
        assert_eq!(error("+1 0 1\n"), "line 1 of the id map, \"+1 0 1\": not a decimal number");
        assert_eq!(error("-1 0 1\n"), "line 1 of the id map, \"-1 0 1\": not a decimal number");
        assert_eq!(error("4294967296 0 1\n"), "line 1 of the id map, \"4294967296 0 1\": a number is over 2^32-1");
        let past = "the range goes past the last id, 4294967294";
        assert_eq!(error("4294967295 0 1\n"), format!("line 1 of the id map, \"4294967295 0 1\": {past}"));
        assert_eq!(error("0 4294967290 6\n"), format!("line 1 of the id map, \"0 4294967290 6\": {past}"));
        assert!(IdMap::parse("0 4294967290 5\n").is_ok());
    }

    #[test]
    fn refuses_overlaps_on_either_side() {
        assert!(error("0 100 10\n9 200 1\n").ends_with("\"9 200 1\": overlaps an earlier line"));
        assert!(error("0 100 10\n10 109 1\n").ends_with("\"10 109 1\": overlaps an earlier line"));
    }

    #[test]
    fn refuses_more_than_340_lines() {
        let text = |n: u32| (0..n).map(|i| format!("{} {} 1\n", i * 2, i * 2)).collect::<String>();
        assert!(IdMap::parse(&text(340)).unwrap().fits_kernel());
        assert!(error(&text(341)).ends_with("more than 340 lines"));
    }

    #[test]
    fn long_hostile_lines_are_cut() {
        assert!(error(&"9".repeat(100_000)).len() < 200);
    }
}
