//! `plan`: which map a node should get, from the ids that a user has and those that images and pods use.

mod report;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lexopt::prelude::*;

use super::subid::{self, Granted, Ids, Subordinate};
use super::{image, manifest, nest};
use crate::map::chain::{Band, bands};
use crate::map::layout::{Layout, lay_out};
use crate::map::ranges::Ranges;
use crate::sys::process;

/// What `plan --help` prints.
pub const HELP: &str = "\
uid-nri-plugin plan: the id map that a node should get

Usage: uid-nri-plugin plan [OPTIONS]
       uid-nri-plugin plan --nest LEVELS [--each COUNT] [--first ID]

As many of the ids that images use as there is room for, and a pool of the rest:
as container:intermediate:amount, where 0 is the user's own id and 1 the first
subordinate one, and as options for podman run.

Options:
      --user USER            name or number [default: who runs this]
      --subuid COUNT         so many subordinate ids, instead of what
                             /etc/subuid and /etc/subgid say
      --uids FIRST:COUNT     these subordinate user ids; may be repeated
      --gids FIRST:COUNT     these subordinate group ids; may be repeated
      --pin IDS              ids that must be there, such as 10001,50000-50009
      --from-image FILE      an OCI layout or archive, or what docker save
                             wrote; may be repeated
      --from-manifest FILE   pods and workloads, YAML or JSON; may be repeated
      --podman               print the options for podman run, nothing else
      --json                 print JSON
      --nest LEVELS          plan nested user namespaces instead
      --each COUNT           ids for each level [default: 65536]
      --first ID             first id on the host [default: 100000]
  -h, --help                 print this

Examples:
  uid-nri-plugin plan --pin 1000660000-1000660009
  uid-nri-plugin plan --from-image app.tar --from-manifest app.yaml
  podman run $(uid-nri-plugin plan --podman) ...
  uid-nri-plugin plan --nest 3 --each 65536 --first 500000
";

/// The pause image and nobody (65534), distroless's nonroot (65532): every plan pins these first.
const ALWAYS: [std::ops::RangeInclusive<u32>; 1] = [65532..=65535];
/// Other ids of well-known images, pinned last. The man page has the reasons.
const USUAL: [u32; 10] = [2102, 2103, 7474, 8737, 8983, 9999, 10000, 10001, 11211, 50000];

/// What was asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    user: Option<String>,
    subuid: Option<u32>,
    uids: Vec<std::ops::RangeInclusive<u32>>,
    gids: Vec<std::ops::RangeInclusive<u32>>,
    pins: Vec<Ranges>,
    images: Vec<PathBuf>,
    manifests: Vec<PathBuf>,
    podman: bool,
    json: bool,
    nest: Option<u32>,
    each: Option<u32>,
    first: Option<u32>,
}

/// Reads the options. None: help.
pub fn parse(mut parser: lexopt::Parser) -> Result<Option<Options>, String> {
    let text = |e: lexopt::Error| e.to_string();
    let mut o = Options::default();
    while let Some(argument) = parser.next().map_err(text)? {
        let value = |parser: &mut lexopt::Parser| parser.value().and_then(|v| v.string()).map_err(text);
        let number = |option: &str, text: String| {
            text.parse::<u32>().map_err(|_| format!("{option} takes a number up to 4294967295, not {text:?}"))
        };
        let add = |option: &str, all: &mut Vec<_>, text: String| match subid::parse_range(&text) {
            Ok(range) if subid::add(all, &range) => Ok(()),
            Ok(_) => Err(format!("{option} {text:?} overlaps an earlier one")),
            Err(why) => Err(format!("{option} {text:?}: {why}")),
        };
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("user") => o.user = Some(value(&mut parser)?),
            Long("subuid") => o.subuid = Some(number("--subuid", value(&mut parser)?)?),
            Long("uids") => add("--uids", &mut o.uids, value(&mut parser)?)?,
            Long("gids") => add("--gids", &mut o.gids, value(&mut parser)?)?,
            Long("pin") => o.pins.push(Ranges::parse(&value(&mut parser)?).map_err(|why| format!("--pin: {why}"))?),
            Long("from-image") => o.images.push(parser.value().map_err(text)?.into()),
            Long("from-manifest") => o.manifests.push(parser.value().map_err(text)?.into()),
            Long("podman") => o.podman = true,
            Long("json") => o.json = true,
            Long("nest") => o.nest = Some(number("--nest", value(&mut parser)?)?),
            Long("each") => o.each = Some(number("--each", value(&mut parser)?)?),
            Long("first") => o.first = Some(number("--first", value(&mut parser)?)?),
            other => return Err(other.unexpected().to_string()),
        }
    }
    let plans_a_node = o.subuid.is_some() || o.user.is_some() || o.podman || o.json;
    let has_inputs = !(o.uids.is_empty() && o.gids.is_empty() && o.pins.is_empty());
    let has_files = !(o.images.is_empty() && o.manifests.is_empty());
    if o.nest.is_some() && (plans_a_node || has_inputs || has_files) {
        return Err("--nest goes with --each and --first only".into());
    }
    if o.nest.is_none() && (o.each.is_some() || o.first.is_some()) {
        return Err("--each and --first need --nest".into());
    }
    if o.uids.is_empty() != o.gids.is_empty() {
        return Err("--uids and --gids are needed both".into());
    }
    if !o.uids.is_empty() && (o.subuid.is_some() || o.user.is_some()) || o.subuid.is_some() && o.user.is_some() {
        return Err("--user, --subuid, and --uids with --gids: one of them only".into());
    }
    if o.podman && o.json {
        return Err("--podman and --json: one of them only".into());
    }
    if let Some(levels) = o.nest {
        nested(&o, levels)?;
    }
    for ranges in [Ids::Count(o.subuid.unwrap_or(0)), Ids::Ranges(o.uids.clone()), Ids::Ranges(o.gids.clone())] {
        Granted { own: None, ranges }.around()?;
    }
    Ok(Some(o))
}

fn nested(o: &Options, levels: u32) -> Result<String, String> {
    nest::report(o.first.unwrap_or(100_000), levels, o.each.unwrap_or(1 << 16))
}

/// A plan, and what it was made from.
struct Plan {
    /// The user's name, where it is known.
    user: Option<String>,
    /// Users: what there is and what comes of it.
    uids: (Granted, Layout),
    /// Groups.
    gids: (Granted, Layout),
    images: Vec<image::Image>,
}

/// Plans.
pub fn run(options: Options) -> Result<(u8, String), String> {
    if let Some(levels) = options.nest {
        return nested(&options, levels).map(|text| (0, text));
    }
    let (user, uids, gids) = granted(&options)?;
    let mut images = Vec::new();
    for path in &options.images {
        let read = image::read(path, &mut Progress::new(path).told());
        images.extend(read.map_err(|why| format!("{}: {why}", path.display()))?);
    }
    let mut named = manifest::Identities::default();
    for path in &options.manifests {
        let read = manifest::read(path).map_err(|why| format!("{}: {why}", path.display()))?;
        named.uids = named.uids.union(&read.uids);
        named.gids = named.gids.union(&read.gids);
    }
    let plan = plan(user, uids, gids, &options.pins, &named, images)?;
    let text = match (options.podman, options.json) {
        (true, _) => format!("{}\n", report::podman(&plan).join(" ")),
        (_, true) => report::json(&plan),
        _ => report::text(&plan),
    };
    Ok((0, text))
}

/// Whose ids, and which.
fn granted(o: &Options) -> Result<(Option<String>, Granted, Granted), String> {
    let counted = |count| Granted { own: None, ranges: Ids::Count(count) };
    let these = |ranges: &Vec<_>| Granted { own: None, ranges: Ids::Ranges(ranges.clone()) };
    if let Some(count) = o.subuid {
        return Ok((None, counted(count), counted(count)));
    }
    if !o.uids.is_empty() {
        return Ok((None, these(&o.uids), these(&o.gids)));
    }
    let user = subid::user(o.user.as_ref().unwrap_or(&process::real_uid().to_string()))?;
    let of = |gids, own| Subordinate::gather(gids, &user).granted(&user.0, own);
    let (uids, gids) = (of(false, Some(user.1))?, of(true, user.2)?);
    Ok((Some(user.0), uids, gids))
}

/// Lays out both maps: what must be there, what is named, what images have, and what images use to have.
fn plan(
    user: Option<String>,
    uids: Granted,
    gids: Granted,
    pins: &[Ranges],
    named: &manifest::Identities,
    images: Vec<image::Image>,
) -> Result<Plan, String> {
    let (always, usual) = (Ranges::new(ALWAYS.to_vec()), single(USUAL));
    let lay = |granted: &Granted, named: &Ranges, run_as: Ranges, owners: Ranges| {
        let mut order = vec![&always];
        order.extend(pins);
        order.extend([named, &run_as, &owners, &usual]);
        granted.around().map(|around| lay_out(&around, &order))
    };
    let of = |one: fn(&image::Image) -> Vec<u32>| single(images.iter().flat_map(one));
    let uid_layout =
        lay(&uids, &named.uids, of(|i| i.uid.into_iter().collect()), of(|i| i.uids.files.keys().copied().collect()))?;
    let gid_layout =
        lay(&gids, &named.gids, of(|i| i.gid.into_iter().collect()), of(|i| i.gids.files.keys().copied().collect()))?;
    Ok(Plan { user, uids: (uids, uid_layout), gids: (gids, gid_layout), images })
}

/// The map of a user who has asked for nothing, in the lines that newuidmap and newgidmap get: each with its first id in
/// the node, in Podman's namespace and on the machine.
pub fn unasked(granted: &Granted) -> Result<Vec<Band>, String> {
    let around = granted.around()?;
    let map = lay_out(&around, &[&Ranges::new(ALWAYS.to_vec()), &single(USUAL)]).map;
    Ok(bands(&[around, map]))
}

fn single(ids: impl IntoIterator<Item = u32>) -> Ranges {
    Ranges::new(ids.into_iter().map(|id| id..=id).collect())
}

/// Tells on stderr how far the reading of a file is, once that takes long.
struct Progress<'a> {
    path: &'a Path,
    next: Instant,
    shown: bool,
}

impl Progress<'_> {
    fn new(path: &Path) -> Progress<'_> {
        Progress { path, next: Instant::now() + Duration::from_secs(2), shown: false }
    }

    fn told(&mut self) -> impl FnMut(u64, u64) + '_ {
        |done, total| {
            if Instant::now() < self.next {
                return;
            }
            self.next += Duration::from_secs(1);
            self.shown = true;
            let (done, total) = (done >> 20, total >> 20);
            // With stderr gone nobody is waiting to see it.
            let _ = write!(io::stderr(), "\rreading {}: {done} of {total} MiB ", self.path.display());
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.shown {
            let _ = writeln!(io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Option<Options>, String> {
        parse(lexopt::Parser::from_args(words))
    }

    #[test]
    fn options_are_read() {
        let options = parsed(&["--uids", "100000:2048", "--uids=5:1", "--gids", "100000:2048", "--pin", "7,9-10"]);
        let expected = Options {
            uids: vec![5..=5, 100_000..=102_047],
            gids: vec![100_000..=102_047],
            pins: vec![Ranges::parse("7,9-10").unwrap()],
            ..Default::default()
        };
        assert_eq!(options, Ok(Some(expected)));
        let nest = Options { nest: Some(3), each: Some(65536), first: Some(500_000), ..Default::default() };
        assert_eq!(parsed(&["--nest", "3", "--each", "65536", "--first", "500000"]), Ok(Some(nest)));
        assert_eq!(parsed(&["--help"]), Ok(None));
    }

    #[test]
    fn errors_are_one_line() {
        for (words, error) in [
            (&["--pin", "x"][..], "--pin: \"x\" is not an id (0-4294967294)"),
            (&["--subuid", "-1"], "--subuid takes a number up to 4294967295, not \"-1\""),
            (&["--uids", "1:1"], "--uids and --gids are needed both"),
            (&["--uids", "1"], "--uids \"1\": FIRST:COUNT is needed"),
            (&["--gids", "1:5", "--gids", "5:1"], "--gids \"5:1\" overlaps an earlier one"),
            (&["--subuid", "1", "--user", "a"], "--user, --subuid, and --uids with --gids: one of them only"),
            (&["--podman", "--json"], "--podman and --json: one of them only"),
            (&["--nest", "3", "--json"], "--nest goes with --each and --first only"),
            (&["--each", "3"], "--each and --first need --nest"),
            (&["--nest", "0"], "0 is not a number of levels: the kernel nests 1 to 32"),
            (&["--nest", "2", "--each", "4294967295"], "8589934590 ids from 100000 on go past the last id, 4294967294"),
            (&["--subuid", "4294967295"], "more than 2^32-2 ids are given"),
            (&["--uids", "0:4294967294", "--gids", "1:1"], "more than 2^32-2 ids are given"),
            (&["file"], "unexpected argument \"file\""),
        ] {
            assert_eq!(parsed(words).unwrap_err(), error);
        }
    }

    #[test]
    fn a_file_that_is_not_there() {
        let options = parsed(&["--subuid", "1", "--from-image", "/nonexistent"]).unwrap().unwrap();
        let error = run(options).unwrap_err();
        assert!(error.starts_with("/nonexistent: ") && error.contains("No such file"), "{error}");
    }
}
