//! A plan as text, as options and as JSON.

use std::fmt::Write;

use super::super::colons;
use super::super::json::quote;
use super::super::subid::{Granted, Ids};
use super::{Plan, image};
use crate::map::layout::{Layout, Limit};
use crate::map::pool::rule;
use crate::map::ranges::Ranges;

/// Columns of a terminal.
const WIDTH: usize = 80;
/// More items than this are only counted.
const MAX_ITEMS: usize = 24;

/// The options for `podman run`.
pub fn podman(plan: &Plan) -> Vec<String> {
    let options = |option: &'static str, layout: &Layout| {
        colons(&layout.map).flat_map(move |e| [option.to_owned(), e]).collect::<Vec<_>>()
    };
    [options("--uidmap", &plan.uids.1), options("--gidmap", &plan.gids.1)].concat()
}

/// What a person reads.
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    match &plan.user {
        Some(user) => line(&mut out, &format!("ids of {user}, from /etc/subuid and /etc/subgid")),
        None => line(&mut out, "ids"),
    }
    for (kind, (granted, layout)) in [("uids", &plan.uids), ("gids", &plan.gids)] {
        let total = layout.map.extents().iter().map(|e| e.count).sum::<u32>();
        wrap(&mut out, &format!("  {kind}  "), "", format!("{total}: {}", granted.describe()).split(' '));
    }
    line(&mut out, "\nmap of the node, container:intermediate:amount (0 is the user's own id)");
    let same = plan.uids.1.map == plan.gids.1.map;
    wrap(&mut out, "  uids  ", "", colons(&plan.uids.1.map));
    match same {
        true => line(&mut out, "  gids  the same"),
        false => wrap(&mut out, "  gids  ", "", colons(&plan.gids.1.map)),
    }
    let (uid_pool, gid_pool) = (plan.uids.1.pool, plan.gids.1.pool);
    line(
        &mut out,
        &if uid_pool == gid_pool {
            format!("  pool  {uid_pool}: any other id is placed on {}", rule(uid_pool))
        } else {
            let (uids, gids) = (rule(uid_pool), rule(gid_pool));
            format!(
                "  pool  {uid_pool} uids, {gid_pool} gids: any other uid is placed on\n        {uids}, gid on {gids}"
            )
        },
    );
    line(&mut out, "        another map later re-owns what such ids have on volumes");
    for (kind, (_, layout)) in [("uids", &plan.uids), ("gids", &plan.gids)] {
        if let Some(limit) = layout.limit {
            let why = match limit {
                Limit::Ids => "at least half of the ids stay in the pool",
                Limit::Size => "the kernel takes 340 lines and 4095 bytes",
            };
            let ids = layout.left_out.listed(MAX_ITEMS);
            wrap(&mut out, &format!("  without {kind} "), "", format!("{ids}: {why}").split(' '));
        }
    }
    line(&mut out, "\npodman run, rootless");
    let options = podman(plan);
    wrap(&mut out, "  ", " \\", options.chunks(2).map(|pair| pair.join(" ")));
    line(&mut out, "\nan image that podman cannot unpack, for files of ids that the user lacks");
    line(&mut out, "  podman unshare uid-nri-plugin supervise -- podman pull IMAGE");
    line(&mut out, "\npodman-compose: in the service from 1.2 on (before, use --podman-run-args)");
    for (key, layout) in [("uidmaps", &plan.uids.1), ("gidmaps", &plan.gids.1)] {
        let items = colons(&layout.map).map(|e| format!("\"{e}\""));
        wrap(&mut out, &format!("  x-podman.{key}: ["), "", items.enumerate().map(|(i, e)| last(i, layout, e)));
    }
    line(&mut out, "\ndocker, docker compose, nerdctl: no such option; rootless they map all ids");
    line(&mut out, "from 0 on. Begin the node's entrypoint with \"uid-nri-plugin node --\"");
    for image in &plan.images {
        one_image(&mut out, plan, image);
    }
    out
}

/// An element of a YAML list: with a comma, or the bracket.
fn last(index: usize, layout: &Layout, text: String) -> String {
    if index + 1 == layout.map.extents().len() { text + "]" } else { text + "," }
}

fn one_image(out: &mut String, plan: &Plan, image: &image::Image) {
    let user = if image.user.is_empty() { "none".to_owned() } else { image.user.escape_debug().to_string() };
    line(out, &format!("\nimage {}", image.name.escape_debug()));
    let or_unknown = |id: Option<u32>| id.map_or("unknown".to_owned(), |id| id.to_string());
    line(out, &format!("  USER    {user}: runs as {}:{}", or_unknown(image.uid), or_unknown(image.gid)));
    let uids = Fate::of(&plan.uids.1, image.uid, &image.uids);
    let gids = Fate::of(&plan.gids.1, image.gid, &image.gids);
    let both = |uids: &Ranges, gids: &Ranges| {
        let one = |kind, ids: &Ranges| {
            if is_empty(ids) { String::new() } else { format!("{kind} {}", ids.listed(MAX_ITEMS)) }
        };
        [one("uids", uids), one("gids", gids)].join(" ").trim().to_owned()
    };
    for (label, uids, gids) in [
        ("native  ", &uids.native, &gids.native),
        ("plugin  ", &uids.plugin, &gids.plugin),
        ("folded  ", &uids.folded, &gids.folded),
    ] {
        if !(is_empty(uids) && is_empty(gids)) {
            wrap(out, &format!("  {label}"), "", both(uids, gids).split(' '));
        }
    }
    let unlisted = image.uids.unlisted.max(image.gids.unlisted);
    if unlisted > 0 {
        line(out, &format!("  and {unlisted} files with yet other owners"));
    }
    let above: Vec<String> = image
        .passwd
        .iter()
        .filter(|a| a.uid >= plan.uids.1.pool)
        .map(|a| format!("{} {},", a.name.escape_debug(), a.uid))
        .collect();
    if !above.is_empty() {
        let more = above.len().saturating_sub(MAX_ITEMS);
        let mut shown: Vec<String> = above.into_iter().take(MAX_ITEMS).collect();
        if more > 0 {
            shown.push(format!("and {more} more,"));
        }
        let text = shown.join(" ");
        wrap(out, "  passwd  ", "", format!("above the pool: {}", text.trim_end_matches(',')).split(' '));
    }
    let others = [&uids.plugin, &uids.folded, &gids.plugin, &gids.folded];
    if unlisted == 0 && others.into_iter().all(is_empty) {
        line(out, "  all its ids are in the node's map");
    }
}

/// What becomes of an image's ids.
struct Fate {
    /// In the node's map.
    native: Ranges,
    /// Given to the container under its true number, by the plugin.
    plugin: Ranges,
    /// Placed by the rule, by supervise.
    folded: Ranges,
}

impl Fate {
    fn of(layout: &Layout, runs_as: Option<u32>, owners: &image::Owners) -> Fate {
        let has = |id: u32| id < layout.pool || layout.pinned.contains(id);
        let set = |ids: Vec<u32>| Ranges::new(ids.into_iter().map(|id| id..=id).collect());
        let (native, other): (Vec<u32>, Vec<u32>) = owners.files.keys().chain(&runs_as).partition(|id| has(**id));
        Fate {
            native: set(native),
            plugin: set(runs_as.into_iter().filter(|id| !has(*id)).collect()),
            // Its files are unpacked before there is a container that could have the id.
            folded: set(other.into_iter().filter(|id| owners.files.contains_key(id)).collect()),
        }
    }
}

/// What a script reads.
pub fn json(plan: &Plan) -> String {
    let kind = |(granted, layout): &(Granted, Layout)| {
        let ranges = match &granted.ranges {
            Ids::Count(_) => Vec::new(),
            Ids::Ranges(ranges) => ranges.clone(),
        };
        let ranges =
            ranges.iter().map(|r| format!("{{\"first\":{},\"count\":{}}}", r.start(), r.end() - r.start() + 1));
        let map = layout.map.extents().iter();
        let total = map.clone().map(|e| e.count).sum::<u32>();
        let map = map
            .map(|e| format!("{{\"containerID\":{},\"intermediateID\":{},\"size\":{}}}", e.inside, e.outside, e.count));
        let why = match layout.limit {
            None => "null",
            Some(Limit::Ids) => "\"pool\"",
            Some(Limit::Size) => "\"kernel\"",
        };
        format!(
            "{{\"available\":{total},\"own\":{},\"subordinate\":{},\"map\":{},\"pool\":{},\"pinned\":{},\"leftOut\":{},\
             \"limit\":{why}}}",
            or_null(granted.own),
            array(ranges),
            array(map),
            layout.pool,
            quote(&layout.pinned.to_string()),
            quote(&layout.left_out.to_string()),
        )
    };
    let images = plan.images.iter().map(|image| {
        let fate = |layout, id, owners: &image::Owners| {
            let fate = Fate::of(layout, id, owners);
            let [native, plugin, folded] = [fate.native, fate.plugin, fate.folded].map(|ids| quote(&ids.to_string()));
            let unlisted = owners.unlisted;
            format!("{{\"native\":{native},\"plugin\":{plugin},\"folded\":{folded},\"unlistedFiles\":{unlisted}}}")
        };
        let accounts = image.passwd.iter().filter(|a| a.uid >= plan.uids.1.pool);
        let accounts = accounts.map(|a| format!("{{\"name\":{},\"uid\":{},\"gid\":{}}}", quote(&a.name), a.uid, a.gid));
        format!(
            "{{\"name\":{},\"user\":{},\"uid\":{},\"gid\":{},\"uids\":{},\"gids\":{},\"accountsAbovePool\":{}}}",
            quote(&image.name),
            quote(&image.user),
            or_null(image.uid),
            or_null(image.gid),
            fate(&plan.uids.1, image.uid, &image.uids),
            fate(&plan.gids.1, image.gid, &image.gids),
            array(accounts),
        )
    });
    format!(
        "{{\"user\":{},\"uids\":{},\"gids\":{},\"podman\":{},\"images\":{}}}\n",
        plan.user.as_ref().map_or("null".to_owned(), |user| quote(user)),
        kind(&plan.uids),
        kind(&plan.gids),
        array(podman(plan).iter().map(|option| quote(option))),
        array(images),
    )
}

fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn or_null(id: Option<u32>) -> String {
    id.map_or("null".to_owned(), |id| id.to_string())
}

fn is_empty(ids: &Ranges) -> bool {
    ids.iter().next().is_none()
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Words in lines of at most 80 columns; all but the last end with `joint`, all but the first are indented as the text
/// after `label` is.
fn wrap(out: &mut String, label: &str, joint: &str, words: impl Iterator<Item = impl AsRef<str>>) {
    let mut row = label.to_owned();
    let mut fresh = true;
    for word in words {
        let word = word.as_ref();
        if !fresh && row.chars().count() + 1 + word.chars().count() + joint.len() > WIDTH {
            let _ = writeln!(out, "{row}{joint}");
            row = " ".repeat(label.len());
            fresh = true;
        }
        if !fresh {
            row.push(' ');
        }
        row.push_str(word);
        fresh = false;
    }
    line(out, &row);
}

#[cfg(test)]
mod tests {
    use super::super::image::{Account, Image, Owners};
    use super::super::{manifest, plan};
    use super::*;

    fn owners(ids: &[(u32, u64)], unlisted: u64) -> Owners {
        Owners { files: ids.iter().copied().collect(), unlisted }
    }

    fn example() -> Plan {
        let granted = |own, first| Granted { own: Some(own), ranges: Ids::Ranges(vec![first..=first + 2047]) };
        let account = |name: &str, uid| Account { name: name.into(), uid, gid: uid };
        let images = vec![
            Image {
                name: "example/app:1".into(),
                user: "app".into(),
                uid: Some(200_000),
                gid: Some(10001),
                uids: owners(&[(0, 10), (200_000, 3), (4_000_000, 1)], 0),
                gids: owners(&[(0, 10), (10001, 4)], 0),
                passwd: vec![account("root", 0), account("nobody", 65534), account("a\u{1b}pp", 200_000)],
            },
            Image {
                name: "plain".into(),
                user: String::new(),
                uid: Some(0),
                gid: None,
                uids: owners(&[(0, 1)], 0),
                gids: owners(&[(0, 1), (42, 1)], 7),
                passwd: Vec::new(),
            },
            Image {
                name: "low".into(),
                user: "5".into(),
                uid: Some(5),
                gid: Some(0),
                uids: owners(&[(0, 1)], 0),
                gids: owners(&[(0, 1)], 0),
                passwd: Vec::new(),
            },
        ];
        let named = manifest::Identities { uids: Ranges::parse("3000").unwrap(), gids: Ranges::default() };
        // So many pins that the half is reached: the images' own do not all fit.
        let pins = Ranges::parse("1000000-1001018").unwrap();
        plan(Some("alice".into()), granted(1000, 100_000), granted(100, 300_000), &[pins], &named, images).unwrap()
    }

    #[test]
    fn text_of_a_plan() {
        assert_eq!(text(&example()), TEXT);
        assert!(TEXT.lines().all(|line| line.chars().count() <= WIDTH));
    }

    const TEXT: &str = "\
ids of alice, from /etc/subuid and /etc/subgid
  uids  2049: 1000, 100000-102047
  gids  2049: 100, 300000-302047

map of the node, container:intermediate:amount (0 is the user's own id)
  uids  0:0:1025 3000:1025:1 65532:1026:4 1000000:1030:1019
  gids  0:0:1025 10001:1025:1 65532:1026:4 1000000:1030:1019
  pool  1025: any other id is placed on 512 + id mod 513
        another map later re-owns what such ids have on volumes
  without uids 2102-2103, 7474, 8737, 8983, 9999-10001, 11211, 50000, 200000,
               4000000: at least half of the ids stay in the pool
  without gids 2102-2103, 7474, 8737, 8983, 9999-10000, 11211, 50000: at least
               half of the ids stay in the pool

podman run, rootless
  --uidmap 0:0:1025 --uidmap 3000:1025:1 --uidmap 65532:1026:4 \\
  --uidmap 1000000:1030:1019 --gidmap 0:0:1025 --gidmap 10001:1025:1 \\
  --gidmap 65532:1026:4 --gidmap 1000000:1030:1019

an image that podman cannot unpack, for files of ids that the user lacks
  podman unshare uid-nri-plugin supervise -- podman pull IMAGE

podman-compose: in the service from 1.2 on (before, use --podman-run-args)
  x-podman.uidmaps: [\"0:0:1025\", \"3000:1025:1\", \"65532:1026:4\",
                     \"1000000:1030:1019\"]
  x-podman.gidmaps: [\"0:0:1025\", \"10001:1025:1\", \"65532:1026:4\",
                     \"1000000:1030:1019\"]

docker, docker compose, nerdctl: no such option; rootless they map all ids
from 0 on. Begin the node's entrypoint with \"uid-nri-plugin node --\"

image example/app:1
  USER    app: runs as 200000:10001
  native  uids 0 gids 0, 10001
  plugin  uids 200000
  folded  uids 200000, 4000000
  passwd  above the pool: nobody 65534, a\\u{1b}pp 200000

image plain
  USER    none: runs as 0:unknown
  native  uids 0 gids 0, 42
  and 7 files with yet other owners

image low
  USER    5: runs as 5:0
  native  uids 0, 5 gids 0
  all its ids are in the node's map
";

    #[test]
    fn json_of_a_plan() {
        use super::super::super::json::Value;
        let value = Value::parse(&json(&example())).unwrap();
        let number = |path: &[&str]| value.at(path).and_then(Value::number);
        assert_eq!(number(&["uids", "available"]), Some(2049));
        assert_eq!(number(&["uids", "pool"]), Some(1025));
        assert_eq!(value.at(&["uids", "limit"]).and_then(Value::text), Some("pool"));
        assert_eq!(value.at(&["uids", "pinned"]).and_then(Value::text), Some("3000,65532-65535,1000000-1001018"));
        let first = &value.at(&["uids", "map"]).unwrap().list()[1];
        let of = |key| first.get(key).and_then(Value::number);
        assert_eq!([of("containerID"), of("intermediateID"), of("size")], [Some(3000), Some(1025), Some(1)]);
        let images = value.get("images").unwrap().list();
        assert_eq!(images[0].at(&["uids", "plugin"]).and_then(Value::text), Some("200000"));
        assert_eq!(images[0].at(&["uids", "folded"]).and_then(Value::text), Some("200000,4000000"));
        assert_eq!(images[1].at(&["gids", "unlistedFiles"]).and_then(Value::number), Some(7));
        assert_eq!(images[1].get("gid"), Some(&Value::Word("null".into())));
        let options: Vec<_> = value.get("podman").unwrap().list().iter().filter_map(Value::text).collect();
        assert_eq!(options, podman(&example()));
    }
}
