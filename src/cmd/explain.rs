//! `explain`: what becomes of an id on this node, in three lines.

use lexopt::prelude::*;

use super::json::object;
use super::source::{Namespace, Whose, kinds, map_of};
use super::text::put;
use super::{check, json};
use crate::map::MAX_ID;
use crate::map::kind::Kind;
use crate::map::pool::NodeIds;
use crate::map::ranges::Ranges;
use crate::pod::config::{Overrides, PluginConfig};
use crate::pod::{presence, rundir};

pub const HELP: &str = "\
uid-nri-plugin explain: what becomes of an id on this node

Usage: uid-nri-plugin explain [--pid PID | --map FILE] [--json] ID...

For each id (10001, or a list like 10001,65532-65535) three lines: whether the
node's map has it, and its slot; which ids below 65536 share the slot; what
happens at the unpacking of an image with files of it, to a pod that runs as
it, to chown and setuid in a container, as far as plugin and supervise work on
this node now. An id is claimed if the container runs as it, or its pod's
annotation or the plugin's configuration names it; one more line tells for
which image. supervise works if its server runs, and containerd is below it.

Options:
      --pid PID   the node is the namespace that this process is in
      --map FILE  the node has the map in a file, or - for stdin
      --json      print JSON: the ids that things are done as, or null where
                  they fail
  -h, --help      print this

Examples:
  uid-nri-plugin explain 10001 65532-65535
  echo 0:100000:2048 | uid-nri-plugin explain --map - 1000660000
";

/// More ids than this are a table: show --wrap prints it.
const MOST: usize = 256;
/// Debian's nobody and nogroup, which programs compare with what they see.
const NOBODY: u32 = 65534;
/// So many ids that share a slot are named.
const NAMED: usize = 3;

#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    ids: Vec<u32>,
    whose: Whose,
    json: bool,
}

/// Reads the options. None: help.
pub fn parse(mut parser: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options { ids: Vec::new(), whose: Whose::Ours, json: false };
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("pid") => options.whose.set(true, &mut parser, "explained")?,
            Long("map") => options.whose.set(false, &mut parser, "explained")?,
            Long("json") => options.json = true,
            Value(word) => {
                let word = word.string()?;
                if word.trim() == "4294967295" {
                    return Err("4294967295 is -1, which means \"no change\" to chown and setuid: it is no id".into());
                }
                options.ids.extend(Ranges::parse(&word)?.ids().take(MOST + 1));
            }
            other => return Err(other.unexpected()),
        }
    }
    match options.ids.len() {
        0 => Err("explain needs an id".into()),
        n if n > MOST => Err(format!("at most {MOST} ids are explained at once; show --wrap has them all").into()),
        _ => Ok(Some(options)),
    }
}

pub fn run(options: Options) -> Result<(u8, String), String> {
    let node = Namespace::read(&options.whose)?;
    let halves = node.own.then(|| (rundir::acting(rundir::PATH), presence::supervise()));
    let mut facts = facts(&node, &options.ids, !options.json)?;
    if node.own {
        let config = PluginConfig::parse(&check::configuration()).unwrap_or_default();
        facts.iter_mut().for_each(|fact| fact.find_images(&config));
    }
    Ok((0, if options.json { json(&facts, halves) } else { text(&facts, halves) }))
}

/// The pids of the plugin and of `supervise`. None: it is another node, where they cannot be looked for.
type Halves = Option<(Option<u32>, Option<u32>)>;

/// What the arithmetic says of an id.
struct Fact {
    /// None: a user and a group.
    kind: Option<Kind>,
    id: u32,
    native: bool,
    slot: u32,
    outside: u32,
    /// Other ids below 65536 with the same slot.
    sharers: Vec<u32>,
    /// The images that it is claimed for.
    images: Vec<String>,
}

fn facts(node: &Namespace, ids: &[u32], merge: bool) -> Result<Vec<Fact>, String> {
    let mut facts = Vec::new();
    for &id in ids {
        for &kind in kinds(false, merge, &[&node.maps]) {
            let map = map_of(&node.maps, kind);
            let node = NodeIds::new(map).map_err(|e| e.to_string())?;
            let slot = node.place(id);
            let sharers = (0..1 << 16).filter(|other| *other != id && node.place(*other) == slot).collect();
            // A slot is an id of the node, so the map has it.
            let outside = map.to_outside(slot.0).unwrap_or(MAX_ID);
            let native = node.contains(id);
            facts.push(Fact { kind, id, native, slot: slot.0, outside, sharers, images: Vec::new() });
        }
    }
    Ok(facts)
}

impl Fact {
    fn kind(&self) -> String {
        self.kind.map_or("id".to_owned(), |kind| kind.to_string())
    }

    fn find_images(&mut self, config: &PluginConfig) {
        let claims = |overrides: &Overrides| {
            self.kind != Some(Kind::Gid) && overrides.claims.uids.contains(self.id)
                || self.kind != Some(Kind::Uid) && overrides.claims.gids.contains(self.id)
        };
        let claiming = config.images.iter().filter(|(_, overrides)| !self.native && claims(overrides));
        self.images = claiming.map(|(pattern, _)| pattern.clone()).collect();
    }

    fn text(&self, text: &mut String, halves: Halves) {
        let Fact { id, native, slot, outside, sharers, images, .. } = self;
        let (kind, not) = (self.kind(), if *native { "" } else { "not " });
        put(text, format_args!("{kind} {id}  {not}in the node's map: slot {slot}, {outside} outside\n  "));
        if sharers.is_empty() {
            text.push_str("no other id below 65536 has this slot");
        }
        for (n, other) in sharers.iter().take(NAMED).enumerate() {
            put(text, format_args!("{}{other}", if n == 0 { "shared with " } else { ", " }));
        }
        if sharers.len() > NAMED {
            put(text, format_args!(" and {} more below 65536", sharers.len() - NAMED));
        }
        // Slot 0 is that of a node with one id, where the plugin has none to give: it refuses what supervise does not fold.
        let pod = match (*slot, halves) {
            (0, Some((_, Some(_)))) => "pod runs as 0".to_owned(),
            (0, _) => "pod fails".to_owned(),
            _ => format!("pod runs as {id}"),
        };
        let fate = match halves.map(|(plugin, supervise)| (plugin.is_some(), supervise.is_some())) {
            _ if *native => "unpack, a pod's user, chown, setuid: done as it is, by the kernel".to_owned(),
            None => format!("supervise: unpack, chown, setuid as {slot}; plugin: {pod}"),
            Some((false, false)) => "unpack fails; a pod fails; chown, setuid: EINVAL".to_owned(),
            Some((false, true)) => format!("unpack, a pod's user, chown, setuid: all done as {slot}"),
            Some((true, false)) => format!("unpack fails; a {pod}; chown, setuid: EINVAL unless claimed"),
            Some((true, true)) => format!("unpack, unclaimed chown and setuid as {slot}; a {pod}"),
        };
        put(text, format_args!("\n  {fate}\n"));
        if !images.is_empty() {
            put(text, format_args!("  claimed for image {}\n", images.join(", ")));
        }
        if *id == NOBODY && !native && *slot > 0 {
            text.push_str("  Debian's sshd and apt fail in pods that do not claim it: inject=always does\n");
        }
    }

    /// As objects of the ids that things are done as, or null for an error; chown and setuid in a container that has
    /// no claim to the id.
    fn json(&self, halves: Halves) -> json::Value {
        let &Fact { id, native, slot, outside, .. } = self;
        let outcome = |plugin: bool, supervise: bool| {
            let call = if native { Some(id) } else { supervise.then_some(slot) };
            let pod = if plugin && !native && slot > 0 { Some(id) } else { call };
            object! { "unpack": call, "pod": pod, "chown": call, "setuid": call }
        };
        let (kind, sharers) = (&self.kind(), self.sharers.len());
        match halves {
            Some((plugin, supervise)) => object! {
                "kind": kind, "id": id, "native": native, "slot": slot, "outside": outside, "sharers": sharers,
                "now": outcome(plugin.is_some(), supervise.is_some()),
            },
            None => object! {
                "kind": kind, "id": id, "native": native, "slot": slot, "outside": outside, "sharers": sharers,
                "withPlugin": outcome(true, false), "withSupervise": outcome(false, true),
            },
        }
    }
}

fn text(facts: &[Fact], halves: Halves) -> String {
    let process = |pid: Option<u32>| pid.map_or("none seen".to_owned(), |pid| format!("process {pid}"));
    let mut text = match halves {
        Some((plugin, supervise)) => format!("plugin: {}; supervise: {}\n", process(plugin), process(supervise)),
        None => "not this node: whether plugin and supervise work there is not known\n".to_owned(),
    };
    facts.iter().for_each(|fact| fact.text(&mut text, halves));
    text
}

fn json(facts: &[Fact], halves: Halves) -> String {
    let (plugin, supervise) = halves.unwrap_or_default();
    let ids: json::Value = facts.iter().map(|fact| fact.json(halves)).collect();
    object! { "plugin": plugin, "supervise": supervise, "ids": ids }.to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::idmap::IdMap;
    use crate::map::kind::Both;

    fn facts_of(uids: &str, gids: &str, ids: &[u32]) -> Vec<Fact> {
        let maps = Both { uids: IdMap::parse(uids).unwrap(), gids: IdMap::parse(gids).unwrap() };
        facts(&Namespace { maps, outside: "around the node", own: true }, ids, true).unwrap()
    }

    const NODE: &str = "0 2937359488 2044\n65532 2937361532 4";

    #[test]
    fn three_lines_an_id() {
        let facts = facts_of(NODE, NODE, &[10001, 65532, 1605, 2044]);
        assert_eq!(
            text(&facts, Some((None, None))),
            "\
plugin: none seen; supervise: none seen
id 10001  not in the node's map: slot 1605, 2937361093 outside
  shared with 1605, 2693, 3737 and 58 more below 65536
  unpack fails; a pod fails; chown, setuid: EINVAL
id 65532  in the node's map: slot 65532, 2937361532 outside
  no other id below 65536 has this slot
  unpack, a pod's user, chown, setuid: done as it is, by the kernel
id 1605  in the node's map: slot 1605, 2937361093 outside
  shared with 2693, 3737, 4781 and 58 more below 65536
  unpack, a pod's user, chown, setuid: done as it is, by the kernel
id 2044  not in the node's map: slot 2000, 2937361488 outside
  shared with 2000, 3088, 4132 and 58 more below 65536
  unpack fails; a pod fails; chown, setuid: EINVAL
"
        );
        let one = |halves| text(&facts[..1], halves).lines().last().unwrap().to_owned();
        assert_eq!(
            one(Some((Some(7), None))),
            "  unpack fails; a pod runs as 10001; chown, setuid: EINVAL unless claimed"
        );
        assert_eq!(one(Some((None, Some(8)))), "  unpack, a pod's user, chown, setuid: all done as 1605");
        assert_eq!(one(Some((Some(7), Some(8)))), "  unpack, unclaimed chown and setuid as 1605; a pod runs as 10001");
        assert_eq!(one(None), "  supervise: unpack, chown, setuid as 1605; plugin: pod runs as 10001");
        assert!(text(&facts, Some((Some(7), Some(8)))).starts_with("plugin: process 7; supervise: process 8\n"));
        assert!(text(&facts, None).starts_with("not this node: "));
    }

    #[test]
    fn images_that_claim_an_id() {
        let config = PluginConfig::parse("image a claim-uids=5000-70000\nimage b claim-gids=70000").unwrap();
        let told = |gids: &str, id| {
            let mut facts = facts_of(NODE, gids, &[id]);
            facts.iter_mut().for_each(|fact| fact.find_images(&config));
            let text = text(&facts, Some((Some(1), None)));
            text.lines().filter_map(|l| l.strip_prefix("  claimed for image ").map(str::to_owned)).collect::<Vec<_>>()
        };
        assert_eq!(told(NODE, 70000), ["docker.io/library/a, docker.io/library/b"]);
        assert_eq!(told("0 0 1000", 70000), ["docker.io/library/a", "docker.io/library/b"]);
        assert_eq!(told(NODE, 60000), ["docker.io/library/a"]);
        assert!(told(NODE, 70001).is_empty() && told(NODE, 1000).is_empty());
    }

    #[test]
    fn differing_maps_and_extremes() {
        let both = facts_of(NODE, "0 100000 1", &[65534]);
        let words = text(&both, Some((Some(1), None)));
        assert!(words.contains("\nuid 65534  in the node's map: "), "{words}");
        assert!(words.contains("\ngid 65534  not in the node's map: slot 0, 100000 outside\n"), "{words}");
        assert!(words.ends_with("\n  unpack fails; a pod fails; chown, setuid: EINVAL unless claimed\n"), "{words}");
        assert!(text(&both, None).ends_with("plugin: pod fails\n"));
        for map in ["0 0 4294967294", "0 4294967290 5", "0 1 2147483648", "0 2937359488 2048"] {
            let facts = facts_of(map, "0 0 70000", &[0, 65535, 2147483647, MAX_ID]);
            for halves in
                [None, Some((None, None)), Some((Some(1), None)), Some((None, Some(1))), Some((Some(1), Some(1)))]
            {
                let text = text(&facts, halves);
                assert!(text.lines().all(|l| l.len() <= 80), "{text}");
                assert_eq!(text.lines().count(), 1 + 3 * facts.len());
            }
        }
    }

    #[test]
    fn one_id_and_nobody() {
        let one = facts_of("0 1000 1", "0 1000 1", &[65534]);
        let last = |halves| text(&one, halves).lines().last().unwrap().to_owned();
        assert_eq!(last(Some((Some(1), Some(2)))), "  unpack, unclaimed chown and setuid as 0; a pod runs as 0");
        assert_eq!(last(None), "  supervise: unpack, chown, setuid as 0; plugin: pod fails");
        assert!(json(&one, Some((Some(1), Some(2)))).contains("\"pod\":0,"));
        assert!(json(&one, Some((Some(1), None))).contains("\"pod\":null,"));
        let last = |map| text(&facts_of(map, map, &[65534]), None).lines().last().unwrap().to_owned();
        let told = "  Debian's sshd and apt fail in pods that do not claim it: inject=always does";
        assert_eq!(last("0 1000 2048"), told);
        assert_ne!(last(NODE), told);
    }

    #[test]
    fn json_for_scripts() {
        let facts = facts_of("0 1000 2048", "0 1000 2048", &[10001]);
        let head =
            "\"ids\":[{\"kind\":\"id\",\"id\":10001,\"native\":false,\"slot\":1569,\"outside\":2569,\"sharers\":60,";
        assert_eq!(
            json(&facts, Some((Some(9), None))),
            format!(
                "{{\"plugin\":9,\"supervise\":null,{head}\"now\":{{\"unpack\":null,\"pod\":10001,\"chown\":null,\"setuid\":null}}}}]}}\n"
            )
        );
        assert_eq!(
            json(&facts, None),
            format!(
                "{{\"plugin\":null,\"supervise\":null,{head}\
                 \"withPlugin\":{{\"unpack\":null,\"pod\":10001,\"chown\":null,\"setuid\":null}},\
                 \"withSupervise\":{{\"unpack\":1569,\"pod\":1569,\"chown\":1569,\"setuid\":1569}}}}]}}\n"
            )
        );
    }

    #[test]
    fn options_are_read() {
        let parsed = |words: &[&str]| parse(lexopt::Parser::from_args(words)).map_err(|e| e.to_string());
        let expected = Options { ids: vec![7, 1, 2, 3], whose: Whose::File("-".into()), json: true };
        assert_eq!(parsed(&["7", "--map", "-", "1-3", "--json"]), Ok(Some(expected)));
        assert_eq!(parsed(&["-h"]), Ok(None));
        for (words, error) in [
            (&[][..], "explain needs an id"),
            (&["4294967295"], "4294967295 is -1, which means \"no change\" to chown and setuid: it is no id"),
            (&["4294967296"], "\"4294967296\" is not an id (0-4294967294)"),
            (&["root"], "\"root\" is not an id (0-4294967294)"),
            (&["1-300"], "at most 256 ids are explained at once; show --wrap has them all"),
            (&["1-100000"], "more than 65536 ids are listed"),
            (&["1", "--pid", "1", "--pid", "2"], "only one --pid or --map can be explained"),
            (&["-1"], "invalid option '-1'"),
        ] {
            assert_eq!(parsed(words).unwrap_err(), error);
        }
        assert!(HELP.lines().all(|l| l.len() <= 80));
    }
}
