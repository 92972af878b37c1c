use super::super::super::subid::Granted;
use super::super::image::{Account, Image, Owners};
use super::super::plan;
use super::*;

fn owners(ids: &[(u32, u64)], unlisted: u64) -> Owners {
    Owners { files: ids.iter().copied().collect(), unlisted }
}

fn example() -> Plan {
    let id = |id, group, line| manifest::Id { id, group, line };
    let found = vec![id(3000, false, 7), id(2000, true, 8), id(7, false, 12)];
    let manifests =
        [("app\u{1b}.yaml", found), ("b", vec![]), ("c", vec![])].map(|(path, ids)| (path.into(), ids)).into();
    let granted = |own, first| Granted { own: Some(own), ranges: Ids::Ranges(vec![first..=first + 2047]) };
    let account = |name: &str, uid| Account { name: name.into(), uid, gid: uid, members: String::new() };
    let plain = |gids| [owners(&[(0, 1)], 0), gids, Owners::default(), Owners::default()];
    let images = vec![
        Image {
            name: "example/app:1".into(),
            patterns: vec!["docker.io/example/app:1".into(), "x/y:1".into()],
            groups: Ranges::parse("7,20002").unwrap(),
            user: "app".into(),
            uid: Some(200_000),
            gid: Some(10001),
            ids: [
                owners(&[(0, 10), (200_000, 3), (4_000_000, 1)], 0),
                owners(&[(0, 10), (10001, 4)], 0),
                owners(&[(5_000_000, 1), (3, 1)], 0),
                Owners::default(),
            ],
            passwd: vec![account("root", 0), account("nobody", 65534), account("a\u{1b}pp", 200_000)],
            group: vec![Account { uid: 0, ..account("gosu", 73_000) }],
            ..Image::default()
        },
        Image {
            name: "plain".into(),
            user: String::new(),
            uid: Some(0),
            gid: None,
            ids: plain(owners(&[(0, 1), (42, 1)], 7)),
            unknown: vec!["7 files with yet other owners".into()],
            ..Image::default()
        },
        Image {
            name: "low".into(),
            user: "5".into(),
            uid: Some(5),
            gid: Some(0),
            ids: plain(owners(&[(0, 1)], 0)),
            passwd: vec![account("nobody", 65534)],
            patterns: vec!["sha256:00".into()],
            ..Image::default()
        },
    ];
    // So many pins that the half is reached: the images' own do not all fit.
    let pins = Ranges::parse("1000000-1001018").unwrap();
    plan(
        Some("alice".into()),
        Both { uids: granted(1000, 100_000), gids: granted(100, 300_000) },
        &[pins],
        images,
        manifests,
    )
    .unwrap()
}

#[test]
fn text_of_a_plan() {
    assert_eq!(text(&example()), TEXT);
    assert!(TEXT.lines().all(|line| line.chars().count() <= 80));
}

const TEXT: &str = "\
ids of alice, from /etc/subuid and /etc/subgid
  uids  2049: 1000, 100000-102047
  gids  2049: 100, 300000-302047

map of the node, container:intermediate:amount (0 is the user's own id)
  uids  0:0:1025 3000:1025:1 65532:1026:4 1000000:1030:1019
  gids  0:0:1025 2000:1025:1 65532:1026:4 1000000:1030:1019
  pool  1025: any other id is placed on 512 + id mod 513
        another map or pool later re-owns files of these and of pinned ids on
        volumes: README, \"When the pool changes\", says how to move them
  without uids 2102-2103, 5050, 7474, 8737, 8983, 9999-10002, 10014, 11211,
               50000, 200000, 4000000, 5000000: at least half of the ids stay in
               the pool
  without gids 2102-2103, 5050, 7474, 8737, 8983, 9999-10002, 10014, 11211,
               20002, 50000, 73000, 200000: at least half of the ids stay in the
               pool

podman run, rootless
  --uidmap 0:0:1025 --uidmap 3000:1025:1 --uidmap 65532:1026:4 \\
  --uidmap 1000000:1030:1019 --gidmap 0:0:1025 --gidmap 2000:1025:1 \\
  --gidmap 65532:1026:4 --gidmap 1000000:1030:1019

an image that podman cannot unpack, for files of ids that the user lacks
  podman unshare uid-nri-plugin supervise -- podman pull IMAGE

podman-compose: in the service from 1.2 on (before, use --podman-run-args)
  x-podman.uidmaps: [\"0:0:1025\", \"3000:1025:1\", \"65532:1026:4\",
                     \"1000000:1030:1019\"]
  x-podman.gidmaps: [\"0:0:1025\", \"2000:1025:1\", \"65532:1026:4\",
                     \"1000000:1030:1019\"]

docker, docker compose, nerdctl: no such option; rootless they map all ids
from 0 on. Begin the node's entrypoint with \"uid-nri-plugin node --\"

image example/app:1
  USER    app: runs as 200000:10001, groups 7, 20002
  native  uids 0, 3, 65534 gids 0, 7, 65534
  plugin  uids 200000 gids 10001, 20002
  folded  uids 200000, 4000000, 5000000 gids 10001, 73000, 200000
  passwd  above the pool: nobody 65534, a\\u{1b}pp 200000
  group   above the pool: gosu 73000
  claim   true numbers on a node without this map, by the pod's annotation
    uid-mapper.noderesource.dev: claim-uids=200000,4000000,5000000
                                 claim-gids=10001,20002,73000,200000

image plain
  USER    none: runs as 0:unknown
  native  uids 0 gids 0, 42
  7 files with yet other owners

image low
  USER    5: runs as 5:0
  native  uids 0, 5, 65534 gids 0, 65534
  passwd  above the pool: nobody 65534
  all its ids are in the node's map

ids in manifests, and their lines
  \"app\\u{1b}.yaml\"
    uids  3000 (7), 7 (12)
    gids  2000 (8)
  2 of 3 name none
  claim   true numbers on a node without this map, by the pod's annotation
    uid-mapper.noderesource.dev: claim-uids=3000 claim-gids=2000
";

#[test]
fn lines_for_the_configuration() {
    let mut plan = example();
    // Another platform of the first image, and an image with ids that are accounts only.
    let mut other = plan.images[0].clone();
    other.patterns.pop();
    other.passwd[0].uid = 70_000;
    plan.images.push(other);
    plan.images[1].name = "a\nimage *".into();
    let expected = "\
# a\\nimage *: neither its reference nor its digest is told
image docker.io/example/app:1 claim-uids=70000,200000,4000000,5000000 claim-gids=10001,20002,73000,200000
image x/y:1 claim-uids=200000,4000000,5000000 claim-gids=10001,20002,73000,200000
# sha256:00 has no ids to claim
";
    assert_eq!(config(&plan), expected);
    assert_eq!(crate::pod::config::PluginConfig::parse(expected).unwrap().images.len(), 2);
}

#[test]
fn json_of_a_plan() {
    let value = Value::parse(&json(&example()).to_string()).unwrap();
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
    assert_eq!(images[0].at(&["uids", "folded"]).and_then(Value::text), Some("200000,4000000,5000000"));
    assert_eq!(images[0].get("groups").and_then(Value::text), Some("7,20002"));
    assert_eq!(images[0].at(&["claims", "gids"]).and_then(Value::text), Some("10001,20002,73000,200000"));
    assert_eq!(images[0].get("groupsAbovePool").unwrap().list()[0].get("gid").and_then(Value::number), Some(73000));
    assert_eq!(images[1].get("unknown").unwrap().list(), [Value::Text("7 files with yet other owners".into())]);
    let manifest = &value.get("manifests").unwrap().list()[0];
    assert_eq!(manifest.get("file").and_then(Value::text), Some("app\u{1b}.yaml"));
    let id = &manifest.get("ids").unwrap().list()[1];
    let of = |key| id.get(key).and_then(Value::number);
    assert_eq!((id.get("kind").and_then(Value::text), of("id"), of("line")), (Some("gid"), Some(2000), Some(8)));
    assert_eq!(value.at(&["manifestClaims", "uids"]).and_then(Value::text), Some("3000"));
    assert_eq!(images[1].at(&["gids", "unlistedFiles"]).and_then(Value::number), Some(7));
    assert_eq!(images[1].get("gid"), Some(&Value::Word("null".into())));
    let options: Vec<_> = value.get("podman").unwrap().list().iter().filter_map(Value::text).collect();
    assert_eq!(options.join(" "), podman(&example()).join(" "));
}
