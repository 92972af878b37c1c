//! `plan`: which map a node should get, from the ids that a user has and those that images and pods use.

mod report;

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lexopt::prelude::*;

use super::subid::{self, Granted, Ids, Subordinate};
use super::{image, manifest, nest};
use crate::map::chain::{Band, bands};
use crate::map::kind::{Both, Kind};
use crate::map::layout::{Layout, lay_out};
use crate::map::ranges::Ranges;
use crate::sys::process;

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
      --from-image FILE...   an OCI layout or archive, or what docker save or
                             skopeo (dir:) wrote
      --from-manifest FILE...
                             pods and workloads, YAML or JSON, folders of them,
                             or - for stdin
      --podman               print the options for podman run, nothing else
      --config               print lines for the plugin's configuration, which
                             give these images their ids under true numbers
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
const ALWAYS: [RangeInclusive<u32>; 1] = [65532..=65535];
/// Other ids of well-known images, pinned last. The man page has the reasons.
const USUAL: [u32; 13] = [2102, 2103, 5050, 7474, 8737, 8983, 9999, 10000, 10001, 10002, 10014, 11211, 50000];

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    user: Option<String>,
    subuid: Option<u32>,
    ids: Both<Vec<RangeInclusive<u32>>>,
    pins: Vec<Ranges>,
    images: Vec<PathBuf>,
    manifests: Vec<PathBuf>,
    podman: bool,
    config: bool,
    json: bool,
    nest: Option<u32>,
    each: Option<u32>,
    first: Option<u32>,
}

/// Reads the options. None: help.
pub fn parse(mut parser: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    let mut o = Options::default();
    while let Some(argument) = parser.next()? {
        let value = |parser: &mut lexopt::Parser| parser.value().and_then(|v| v.string());
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
            Long("uids") => add("--uids", &mut o.ids.uids, value(&mut parser)?)?,
            Long("gids") => add("--gids", &mut o.ids.gids, value(&mut parser)?)?,
            Long("pin") => o.pins.push(Ranges::parse(&value(&mut parser)?).map_err(|why| format!("--pin: {why}"))?),
            Long("from-image") => o.images.extend(parser.values()?.map(PathBuf::from)),
            Long("from-manifest") => o.manifests.extend(parser.values()?.map(PathBuf::from)),
            Long("podman") => o.podman = true,
            Long("config") => o.config = true,
            Long("json") => o.json = true,
            Long("nest") => o.nest = Some(number("--nest", value(&mut parser)?)?),
            Long("each") => o.each = Some(number("--each", value(&mut parser)?)?),
            Long("first") => o.first = Some(number("--first", value(&mut parser)?)?),
            other => return Err(other.unexpected()),
        }
    }
    let plans_a_node = o.subuid.is_some() || o.user.is_some() || o.podman || o.config || o.json;
    let has_inputs = !(o.ids.all(Vec::is_empty) && o.pins.is_empty());
    let has_files = !(o.images.is_empty() && o.manifests.is_empty());
    let has_ids = !o.ids.uids.is_empty();
    let refused = if o.nest.is_some() && (plans_a_node || has_inputs || has_files) {
        "--nest goes with --each and --first only"
    } else if o.nest.is_none() && (o.each.is_some() || o.first.is_some()) {
        "--each and --first need --nest"
    } else if has_ids == o.ids.gids.is_empty() {
        "--uids and --gids are needed both"
    } else if u8::from(has_ids) + u8::from(o.subuid.is_some()) + u8::from(o.user.is_some()) > 1 {
        "--user, --subuid, and --uids with --gids: one of them only"
    } else if u8::from(o.podman) + u8::from(o.config) + u8::from(o.json) > 1 {
        "--podman, --config and --json: one of them only"
    } else if o.config && o.images.is_empty() {
        "--config needs --from-image"
    } else {
        ""
    };
    if !refused.is_empty() {
        return Err(refused.into());
    }
    if let Some(levels) = o.nest {
        nested(&o, levels)?;
    }
    let Both { uids, gids } = o.ids.clone();
    for ranges in [Ids::Count(o.subuid.unwrap_or(0)), Ids::Ranges(uids), Ids::Ranges(gids)] {
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
    granted: Both<Granted>,
    layouts: Both<Layout>,
    images: Vec<image::Image>,
    manifests: Manifests,
}

/// The ids in each manifest.
type Manifests = Vec<(PathBuf, Vec<manifest::Id>)>;

pub fn run(options: Options) -> Result<(u8, String), String> {
    if let Some(levels) = options.nest {
        return nested(&options, levels).map(|text| (0, text));
    }
    let (user, granted) = granted(&options)?;
    let mut images = Vec::new();
    for path in &options.images {
        images.extend(read_images(path)?);
    }
    let (mut files, mut manifests, mut code) = (Vec::new(), Vec::new(), 0);
    let mut bad = |path: &Path, why: String| {
        code = 1;
        // With stderr gone the exit code still tells.
        let _ = writeln!(io::stderr(), "uid-nri-plugin: {path:?}: {why}");
    };
    for path in &options.manifests {
        manifest::files(path, &mut files).unwrap_or_else(|why| bad(path, why.to_string()));
    }
    for path in files {
        match manifest::read(&path) {
            Ok(ids) => manifests.push((path, ids)),
            Err(why) => bad(&path, why),
        }
    }
    let plan = plan(user, granted, &options.pins, images, manifests)?;
    let text = match (options.podman, options.config, options.json) {
        (true, ..) => format!("{}\n", report::podman(&plan).join(" ")),
        (_, true, _) => report::config(&plan),
        (.., true) => format!("{}\n", report::json(&plan)),
        _ => report::text(&plan),
    };
    Ok((code, text))
}

/// Whose ids, and which.
fn granted(o: &Options) -> Result<(Option<String>, Both<Granted>), String> {
    if o.subuid.is_some() || !o.ids.uids.is_empty() {
        let ids = |kind| o.subuid.map_or_else(|| Ids::Ranges(o.ids.of(kind).clone()), Ids::Count);
        return Ok((None, Both::new(|kind| Granted { own: None, ranges: ids(kind) })));
    }
    let user = subid::user(o.user.as_ref().unwrap_or(&process::real_uid().to_string()))?;
    let granted = Both::try_new(|kind| Subordinate::gather(kind, &user).granted(&user.0, subid::own(&user, kind)))?;
    Ok((Some(user.0), granted))
}

/// Lays out both maps: what must be there, what is named, what images have, and what images use to have.
fn plan(
    user: Option<String>,
    granted: Both<Granted>,
    pins: &[Ranges],
    images: Vec<image::Image>,
    manifests: Manifests,
) -> Result<Plan, String> {
    let (always, usual) = (Ranges::new(ALWAYS.to_vec()), Ranges::of(USUAL.to_vec()));
    let layouts = Both::try_new(|kind| {
        let (named, mut of_images) = (named(&manifests, kind), <[Ranges; 4]>::default());
        for image in &images {
            of_images.iter_mut().zip(ids_of(image, kind)).for_each(|(all, ids)| *all = Ranges::union(&[all, &ids]));
        }
        let mut order = vec![&always];
        order.extend(pins);
        order.push(&named);
        order.extend(&of_images);
        order.push(&usual);
        granted.of(kind).around().map(|around| lay_out(&around, &order))
    })?;
    Ok(Plan { user, granted, layouts, images, manifests })
}

/// The map of a user who has asked for nothing, in the lines that newuidmap and newgidmap get: each with its first id in
/// the node, in Podman's namespace and on the machine.
pub fn unasked(granted: &Granted) -> Result<Vec<Band>, String> {
    let around = granted.around()?;
    let map = lay_out(&around, &[&Ranges::new(ALWAYS.to_vec()), &Ranges::of(USUAL.to_vec())]).map;
    Ok(bands(&[around, map]))
}

/// The user or group ids of an image: what its processes have, what its ACLs and file capabilities name, owners of its
/// files, and those of its accounts.
fn ids_of(image: &image::Image, kind: Kind) -> [Ranges; 4] {
    let group = kind == Kind::Gid;
    let owners = |n: usize| Ranges::of(image.ids[n + usize::from(group)].files.keys().copied().collect());
    let accounts = image.passwd.iter().chain(&image.group).map(|account| account.id(group)).collect();
    let own = Ranges::of(Vec::from_iter(if group { image.gid } else { image.uid }));
    let set = if group { Ranges::union(&[&own, &image.groups]) } else { own };
    [set, owners(2), owners(0), Ranges::of(accounts)]
}

/// The user or group ids in manifests.
fn named(manifests: &Manifests, kind: Kind) -> Ranges {
    let ids = manifests.iter().flat_map(|(_, ids)| ids).filter(|id| id.group == (kind == Kind::Gid));
    Ranges::of(ids.map(|id| id.id).collect())
}

/// Reads the images in a file, and tells on stderr how far that is, once it takes long.
fn read_images(path: &Path) -> Result<Vec<image::Image>, String> {
    let (mut next, mut shown) = (Instant::now() + Duration::from_secs(2), false);
    // With stderr gone nobody is waiting to see it.
    let read = image::read(path, &mut |done, total| {
        if Instant::now() >= next {
            next += Duration::from_secs(1);
            shown = true;
            let _ = write!(io::stderr(), "\rreading {path:?}: {} of {} MiB ", done >> 20, total >> 20);
        }
    });
    if shown {
        let _ = writeln!(io::stderr());
    }
    read.map_err(|why| format!("{path:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn parsed(words: &[&str]) -> Result<Option<Options>, String> {
        parse(lexopt::Parser::from_args(words)).map_err(|e| e.to_string())
    }

    #[test]
    fn options_are_read() {
        let options = parsed(&["--uids", "100000:2048", "--uids=5:1", "--gids", "100000:2048", "--pin", "7,9-10"]);
        let expected = Options {
            ids: Both { uids: vec![5..=5, 100_000..=102_047], gids: vec![100_000..=102_047] },
            pins: vec![Ranges::parse("7,9-10").unwrap()],
            ..Default::default()
        };
        assert_eq!(options, Ok(Some(expected)));
        let nest = Options { nest: Some(3), each: Some(65536), first: Some(500_000), ..Default::default() };
        assert_eq!(parsed(&["--nest", "3", "--each", "65536", "--first", "500000"]), Ok(Some(nest)));
        assert_eq!(parsed(&["--help"]), Ok(None));
        let files =
            ["--subuid=1", "--from-manifest", "a", "-", "--from-image", "b", "c", "--from-manifest=d", "--config"];
        let expected = Options {
            subuid: Some(1),
            images: vec!["b".into(), "c".into()],
            manifests: vec!["a".into(), "-".into(), "d".into()],
            config: true,
            ..Default::default()
        };
        assert_eq!(parsed(&files), Ok(Some(expected)));
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
            (&["--podman", "--json"], "--podman, --config and --json: one of them only"),
            (&["--config"], "--config needs --from-image"),
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
    fn a_bad_manifest_does_not_end_it() {
        let top = std::env::temp_dir().join(format!("uid-nri-plugin-plan-{}", std::process::id()));
        fs::create_dir(&top).unwrap();
        for (name, text) in [("1.yaml", "runAsUser: x"), ("2.yaml", "runAsUser: 70000"), ("3.yaml", "fsGroup: 1")] {
            fs::write(top.join(name), text).unwrap();
        }
        let run = |words: &[&str]| run(parsed(words).unwrap().unwrap()).unwrap();
        let (code, text) = run(&["--subuid", "2047", "--from-manifest", "/nonexistent", top.to_str().unwrap()]);
        let good = run(&["--subuid", "2047", "--from-manifest", top.join("2.yaml").to_str().unwrap()]);
        fs::remove_dir_all(&top).unwrap();
        assert_eq!((code, good.0), (1, 0));
        let [two, three] = ["2.yaml", "3.yaml"].map(|name| format!("  {:?}\n", top.join(name)));
        assert!(text.contains(&format!("{two}    uids  70000 (1)\n{three}    gids  1 (1)\n")), "{text}");
        assert!(text.contains(" 70000:"), "{text}");
        assert!(good.1.ends_with("claim-uids=70000\n"), "{}", good.1);
    }

    #[test]
    fn a_file_that_is_not_there() {
        let options = parsed(&["--subuid", "1", "--from-image", "/nonexistent"]).unwrap().unwrap();
        let error = run(options).unwrap_err();
        assert!(error.starts_with("\"/nonexistent\": ") && error.contains("No such file"), "{error}");
    }
}
