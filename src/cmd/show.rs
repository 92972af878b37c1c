//! `show`: a node's map, the table of the rule, a container's map, or maps one inside the other.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;

use lexopt::prelude::*;

use super::json::{self, object};
use super::picture::{bars, svg};
use super::source::{self, Namespace, Whose, heading, kinds, map_of};
use super::text::{paragraph, put, span};
use super::{colons, container, wrap};
use crate::map::chain::{Band, MAX_LEVELS, bands, compose, crossing};
use crate::map::cut;
use crate::map::idmap::{Extent, IdMap};
use crate::map::kind::{Both, Kind};
use crate::map::pool::{NodeIds, rule};
use crate::map::ranges::Ranges;

pub const HELP: &str = "\
uid-nri-plugin show: id maps as pictures

Usage: uid-nri-plugin show [--pid PID | --map FILE] [--gid] [--wrap] [OPTIONS]
       uid-nri-plugin show --container ID [--state DIR] [--gid] [OPTIONS]
       uid-nri-plugin show --containers [--state DIR] [--json]
       uid-nri-plugin show --chain FILE... [OPTIONS]

Without options: the map of the node that this process is in. The first column
has the node's ids, the second what the namespace around it calls them; of a
process in another namespace (--pid), what they are called here.

Options:
      --pid PID       the map of the namespace that a process is in
      --map FILE      the map in a file, or - for stdin: lines of
                      'container host count', or container:host:amount
      --gid, --gids   groups only
      --wrap          where the rule places each of the ids 0-65535
      --container ID  the map of a running container, by the beginning of its
                      id, with the ids that it displaces and collisions
      --containers    the containers with a map of their own: the ids that they
                      have under another number than the node, and the node's
                      ids that do not exist in them
      --state DIR     where containerd keeps the bundles of what runs [default:
                      /run/containerd/io.containerd.runtime.v2.task]
      --chain FILE... maps one inside the other, outermost first: the map that
                      comes of them, and which ids cease to exist at which level
                      (then the exit status is 1); also which lines cross lines
                      around: Podman cuts them there, else the kernel refuses
      --svg FILE      draw the picture to a new file as well
      --json          print JSON
  -h, --help          print this

Examples:
  uid-nri-plugin show
  uid-nri-plugin show --wrap --gid
  uid-nri-plugin show --container 4d2a --svg web.svg
  uid-nri-plugin show --chain /proc/self/uid_map inner-map
";

#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    what: What,
    gids_only: bool,
    svg: Option<OsString>,
    json: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Map(Whose),
    Wrap(Whose),
    Container { id: String, state: String },
    Containers { state: String },
    Chain(Vec<OsString>),
}

/// Reads the options. None: help.
pub fn parse(mut parser: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    let (mut whose, mut id, mut chain) = (Whose::Ours, None, Vec::new());
    let (mut list, mut state, mut wrap, mut gids_only, mut svg, mut json) = (false, None, false, false, None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("pid") => whose.set(true, &mut parser, "shown")?,
            Long("map") => whose.set(false, &mut parser, "shown")?,
            Long("gid" | "gids") => gids_only = true,
            Long("wrap") => wrap = true,
            Long("container") => id = Some(parser.value()?.string()?),
            Long("containers") => list = true,
            Long("state") => state = Some(parser.value()?.string()?),
            Long("chain") => chain.extend(parser.values()?),
            Long("svg") => svg = Some(parser.value()?),
            Long("json") => json = true,
            other => return Err(other.unexpected()),
        }
    }
    if chain.len() > MAX_LEVELS as usize {
        return Err(format!("a chain of {} maps is too long: the kernel nests {MAX_LEVELS}", chain.len()).into());
    }
    let here = whose == Whose::Ours && !wrap;
    let or_default = |state: Option<String>| state.unwrap_or_else(|| container::STATE.to_owned());
    let what = match (id, chain.is_empty()) {
        (None, true) if list && here && !gids_only && svg.is_none() => What::Containers { state: or_default(state) },
        _ if list => return Err("--containers goes with no option but --state and --json".into()),
        (None, true) if state.is_some() => return Err("--state goes with --container".into()),
        (None, true) if wrap && svg.is_some() => return Err("--wrap has no picture for --svg".into()),
        (None, true) if wrap => What::Wrap(whose),
        (None, true) => What::Map(whose),
        (Some(id), true) if here => What::Container { id, state: or_default(state) },
        (None, false) if here && state.is_none() && !gids_only => What::Chain(chain),
        (None, false) => return Err("--chain goes with no option but --svg and --json".into()),
        _ => return Err("--container goes with no --pid, --map, --wrap or --chain".into()),
    };
    Ok(Some(Options { what, gids_only, svg, json }))
}

pub fn run(options: Options) -> Result<(u8, String), String> {
    let Options { what, gids_only, svg, json } = options;
    let line = |value: json::Value| value.to_string() + "\n";
    let text = match what {
        What::Map(whose) => {
            let Namespace { maps, outside, .. } = Namespace::read(&whose)?;
            let kinds = kinds(gids_only, !json, &[&maps]);
            let parts: Vec<_> = kinds.iter().map(|kind| (heading(*kind), vec![map_of(&maps, *kind).clone()])).collect();
            draw(svg, "id map of a node", &["node", outside], &parts)?;
            if json { line(map_json(&maps, kinds)) } else { map_text(&maps, kinds, outside) }
        }
        What::Wrap(whose) => {
            let Namespace { maps, outside, .. } = Namespace::read(&whose)?;
            let (mut members, mut tables) = (Vec::new(), Vec::new());
            for &kind in kinds(gids_only, !json, &[&maps]) {
                let map = map_of(&maps, kind);
                let node = NodeIds::new(map).map_err(|e| e.to_string())?;
                match json {
                    true => members.push((heading(kind), wrap::json(map, &node))),
                    false => tables.push(format!("{}\n{}", heading(kind), wrap::text(map, &node, outside))),
                }
            }
            if json { line(json::Value::object(members)) } else { tables.join("\n") }
        }
        What::Container { id, state } => {
            let (c, node) = (container::find(&state, &id)?, Namespace::read(&Whose::Ours)?.maps);
            let chain = |kind: &Option<Kind>| [&node, &c.maps].map(|maps| map_of(maps, *kind).clone()).to_vec();
            let kinds = kinds(gids_only, !json, &[&c.maps, &node]);
            let parts: Vec<_> = kinds.iter().map(|kind| (heading(*kind), chain(kind))).collect();
            draw(svg, &format!("container {}", c.id), &["container", "node", "around the node"], &parts)?;
            if json { line(container::json(&c, &node, gids_only)) } else { container::text(&c, &node, gids_only) }
        }
        What::Containers { state } => {
            let (all, node) = (container::all(&state)?, Namespace::read(&Whose::Ours)?.maps);
            let list = || -> json::Value { all.iter().map(|c| container::json(c, &node, false)).collect() };
            if json { line(object! { "containers": list() }) } else { container::table(&all, &node) }
        }
        What::Chain(files) => {
            let maps = files.iter().map(|path| source::file(path)).collect::<Result<Vec<_>, _>>()?;
            let titles: Vec<String> = (1..=maps.len()).rev().map(|n| format!("level {n}")).collect();
            let titles: Vec<&str> = titles.iter().map(String::as_str).chain(["host"]).collect();
            draw(svg, "id maps, one inside the other", &titles, &[("ids", maps.clone())])?;
            let lost = lost(&maps);
            let text = if json { line(chain_json(&maps, &lost)) } else { chain_text(&maps, &lost) };
            return Ok((u8::from(!lost.is_empty()), text));
        }
    };
    Ok((0, text))
}

/// Draws maps, outermost first, to a new file, if one is asked for: what is there already, even a link, is left alone.
fn draw(path: Option<OsString>, title: &str, columns: &[&str], parts: &[(&str, Vec<IdMap>)]) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    let parts: Vec<_> = parts.iter().map(|(heading, maps)| (*heading, bands(maps))).collect();
    let file = File::options().write(true).create_new(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(svg(title, columns, &parts).as_bytes()));
    written.map_err(|e| format!("cannot write {:?} anew: {e}", cut(&path.to_string_lossy())))
}

/// The pool, and what is native beyond it; or why there is no pool.
fn pool(map: &IdMap) -> Result<(u32, Ranges), String> {
    let node = NodeIds::new(map).map_err(|e| e.to_string())?;
    let beyond = node.ids().iter().filter(|r| *r.start() > 0).cloned().collect();
    Ok((node.pool(), Ranges::new(beyond)))
}

fn map_text(maps: &Both<IdMap>, kinds: &[Option<Kind>], outside: &str) -> String {
    let mut text = String::new();
    for &kind in kinds {
        let (before, map) = (if text.is_empty() { "" } else { "\n" }, map_of(maps, kind));
        put(&mut text, format_args!("{before}{}\n{}", heading(kind), bars(map, "node", outside)));
        match pool(map) {
            Err(why) => paragraph(&mut text, "pool    ", &format!("none: {why}")),
            Ok((pool, native)) => {
                let rule = rule(pool);
                put(&mut text, format_args!("pool    {}: what the node lacks is placed on {rule}\n", span(0, pool)));
                if !native.is_empty() {
                    paragraph(&mut text, "native  ", &(native.listed(usize::MAX) + " beside the pool"));
                }
            }
        }
        paragraph(&mut text, "map     ", &colons(map).collect::<Vec<_>>().join(" "));
    }
    text
}

fn map_json(maps: &Both<IdMap>, kinds: &[Option<Kind>]) -> json::Value {
    let of = |kind: &Option<Kind>| {
        let map = map_of(maps, *kind);
        let (pool, native) = pool(map).map_or((None, Ranges::default()), |(pool, native)| (Some(pool), native));
        (heading(*kind), object! { "map": map, "pool": pool, "native": &native })
    };
    json::Value::object(kinds.iter().map(of).collect())
}

/// Ids that cease to exist, with the level that has them.
fn lost(maps: &[IdMap]) -> Vec<(usize, Band)> {
    let at = |level: usize| {
        let cease = bands(&maps[..level]).into_iter().filter(move |b| b.firsts.len() <= level);
        cease.map(move |band| (level, band))
    };
    (1..=maps.len()).flat_map(at).collect()
}

/// Where a band of a level ends: the level that lacks its ids, counted from the host, which is 0, and the first of them there.
fn end(level: usize, band: &Band) -> (usize, u32) {
    (level + 1 - band.firsts.len(), band.firsts[band.firsts.len() - 1])
}

fn chain_text(maps: &[IdMap], lost: &[(usize, Band)]) -> String {
    /// More lines than this say nothing new.
    const MOST: usize = 20;
    let mut text = String::new();
    for (n, map) in maps.iter().enumerate() {
        paragraph(&mut text, &format!("level {}  ", n + 1), &colons(map).collect::<Vec<_>>().join(" "));
    }
    let innermost = format!("level {}", maps.len());
    put(&mut text, format_args!("\n{}\n", bars(&compose(maps), &innermost, "host")));
    for (level, band) in lost.iter().take(MOST) {
        let (at, name) = end(*level, band);
        let (s, cease) = if band.count == 1 { ("", "ceases") } else { ("s", "cease") };
        let (ids, names) = (span(band.firsts[0], band.count), span(name, band.count));
        let words = format_args!("level {level}: id{s} {ids} {cease} to exist:\n  level {at} has no {names}\n");
        put(&mut text, words);
    }
    if lost.len() > MOST {
        put(&mut text, format_args!("and {} more\n", lost.len() - MOST));
    }
    let crossing = crossing(maps);
    for (level, e) in crossing.iter().take(MOST) {
        let line = format_args!("{}:{}:{}", e.inside, e.outside, e.count);
        put(&mut text, format_args!("level {level}: {line} crosses lines of level {}\n", level - 1));
    }
    text + match (lost.is_empty(), crossing.is_empty()) {
        (false, _) => "the kernel refuses such a map (EPERM)\n",
        (true, true) => "every id of every level exists\n",
        (true, false) => {
            "every id of every level exists; Podman cuts the lines that cross, and uncut\n\
             the kernel refuses them (EPERM)\n"
        }
    }
}

fn chain_json(maps: &[IdMap], lost: &[(usize, Band)]) -> json::Value {
    let cease = |(level, band): &(usize, Band)| {
        let (first, count, (at, name)) = (band.firsts[0], band.count, end(*level, band));
        object! { "level": *level, "first": first, "count": count, "missingAt": at, "missingFirst": name }
    };
    let cross = |(level, e): &(usize, Extent)| {
        object! { "level": *level, "containerID": e.inside, "hostID": e.outside, "size": e.count }
    };
    let lost: json::Value = lost.iter().map(cease).collect();
    let crossing: json::Value = crossing(maps).iter().map(cross).collect();
    object! { "levels": maps.len(), "map": &compose(maps), "lost": lost, "crossing": crossing }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> IdMap {
        IdMap::parse(text).unwrap()
    }

    #[test]
    fn shows_the_map_the_pool_and_what_is_native() {
        let maps = Both { uids: map("0 2937359488 2044\n65532 2937361532 4"), gids: map("5 7 1") };
        assert_eq!(
            map_text(&maps, &[Some(Kind::Uid), Some(Kind::Gid)], "around the node"),
            "\
uids
      node                                            around the node
         0 [############################] 2043        2937359488-2937361531
     65532 [#]                            65535       2937361532-2937361535
pool    0-2043: what the node lacks is placed on 1000 + id mod 1044
native  65532-65535 beside the pool
map     0:2937359488:2044 65532:2937361532:4

gids
      node                                            around the node
         5 [############################]             7
pool    none: the node's user namespace does not map id 0: start the node as
        root of its namespace
map     5:7:1
"
        );
        assert!(map_text(&maps, &[None], "our ids").starts_with("uids and gids\n"));
        assert_eq!(
            map_json(&maps, &[Some(Kind::Uid), Some(Kind::Gid)]).to_string(),
            "{\"uids\":{\"map\":[{\"containerID\":0,\"hostID\":2937359488,\"size\":2044},\
             {\"containerID\":65532,\"hostID\":2937361532,\"size\":4}],\"pool\":2044,\
             \"native\":[{\"first\":65532,\"last\":65535}]},\
             \"gids\":{\"map\":[{\"containerID\":5,\"hostID\":7,\"size\":1}],\"pool\":null,\"native\":[]}}"
        );
    }

    #[test]
    fn chains_name_the_level() {
        let chain = ["0 500000 196608", "0 65536 131071", "0 65536 65536"].map(map);
        let gone = lost(&chain);
        assert_eq!(
            chain_text(&chain, &gone),
            "\
level 1  0:500000:196608
level 2  0:65536:131071
level 3  0:65536:65536

   level 3                                            host
         0 [############################] 65534       631072-696606

level 3: id 65535 ceases to exist:
  level 2 has no 131071
the kernel refuses such a map (EPERM)
"
        );
        assert_eq!(
            chain_json(&chain, &gone).to_string(),
            "{\"levels\":3,\"map\":[{\"containerID\":0,\"hostID\":631072,\"size\":65535}],\
             \"lost\":[{\"level\":3,\"first\":65535,\"count\":1,\"missingAt\":2,\"missingFirst\":131071}],\
             \"crossing\":[]}"
        );
        let across = ["0 1000 1\n1 100000 2048", "0 0 2049"].map(map);
        let end = "\nlevel 2: 0:0:2049 crosses lines of level 1\n\
                   every id of every level exists; Podman cuts the lines that cross, and uncut\n\
                   the kernel refuses them (EPERM)\n";
        let text = chain_text(&across, &lost(&across));
        assert!(text.ends_with(end), "{text}");
        let json = chain_json(&across, &[]).to_string();
        let end = ",\"crossing\":[{\"level\":2,\"containerID\":0,\"hostID\":0,\"size\":2049}]}";
        assert!(json.ends_with(end), "{json}");
        let good = ["0 500000 196608", "0 65536 131072", "0 65536 65536"].map(map);
        assert!(chain_text(&good, &lost(&good)).ends_with("\nevery id of every level exists\n"));
        // Two ids too few at the outermost level, seen from each level inside.
        let outer = ["0 500000 196606", "0 65536 131072", "0 65536 65536"].map(map);
        let text = chain_text(&outer, &lost(&outer));
        assert!(
            text.contains("level 2: ids 131070-131071 cease to exist:\n  level 1 has no 196606-196607\n"),
            "{text}"
        );
        assert!(text.contains("level 3: ids 65534-65535 cease to exist:\n  level 1 has no 196606-196607\n"), "{text}");
    }

    #[test]
    fn options_are_read() {
        let parsed = |words: &[&str]| parse(lexopt::Parser::from_args(words)).map_err(|e| e.to_string());
        let of = |what| Ok(Some(Options { what, gids_only: false, svg: None, json: false }));
        assert_eq!(parsed(&[]), of(What::Map(Whose::Ours)));
        assert_eq!(parsed(&["--wrap", "--map", "-"]), of(What::Wrap(Whose::File("-".into()))));
        assert_eq!(parsed(&["--pid=7"]), of(What::Map(Whose::Pid(7))));
        assert_eq!(parsed(&["--chain", "a", "-"]), of(What::Chain(vec!["a".into(), "-".into()])));
        let container = What::Container { id: "4d".into(), state: "/s".into() };
        assert_eq!(parsed(&["--container", "4d", "--state", "/s"]), of(container));
        assert_eq!(parsed(&["--containers"]), of(What::Containers { state: container::STATE.into() }));
        let all = Options { what: What::Map(Whose::Ours), gids_only: true, svg: Some("f".into()), json: true };
        assert_eq!(parsed(&["--gids", "--svg", "f", "--json"]), Ok(Some(all)));
        assert_eq!(parsed(&["--help"]), Ok(None));
        for (words, error) in [
            (&["--pid", "x"][..], "\"x\" is not a process id"),
            (&["--pid", "1", "--map", "f"], "only one --pid or --map can be shown"),
            (&["--chain"], "missing argument for option '--chain'"),
            (&["--chain", "a", "--wrap"], "--chain goes with no option but --svg and --json"),
            (&["--container", "a", "--wrap"], "--container goes with no --pid, --map, --wrap or --chain"),
            (&["--state", "a"], "--state goes with --container"),
            (&["--containers", "--gid"], "--containers goes with no option but --state and --json"),
            (&["--containers", "--container", "a"], "--containers goes with no option but --state and --json"),
            (&["--wrap", "--svg", "a"], "--wrap has no picture for --svg"),
            (&["x"], "unexpected argument \"x\""),
        ] {
            assert_eq!(parsed(words).unwrap_err(), error);
        }
        assert_eq!(
            parsed(&[vec!["--chain"], vec!["a"; 33]].concat()).unwrap_err(),
            "a chain of 33 maps is too long: the kernel nests 32"
        );
        assert!(HELP.lines().all(|l| l.len() <= 80));
    }

    #[test]
    fn pictures_go_to_new_files_only() {
        let path = std::env::temp_dir().join(format!("uid-nri-plugin-svg-{}", std::process::id()));
        let node = map("0 2937359488 2048");
        let parts = [("uids", vec![node])];
        let draw = |path: &std::path::Path| draw(Some(path.into()), "a node", &["node", "outside"], &parts);
        draw(&path).unwrap();
        super::super::picture::tests::assert_well_formed(&std::fs::read_to_string(&path).unwrap());
        assert!(draw(&path).unwrap_err().ends_with(" anew: File exists (os error 17)"));
        let link = path.with_extension("link");
        std::os::unix::fs::symlink("/nonexistent/elsewhere", &link).unwrap();
        assert!(draw(&link).unwrap_err().ends_with(" anew: File exists (os error 17)"));
        for file in [path, link] {
            std::fs::remove_file(file).unwrap();
        }
    }
}
