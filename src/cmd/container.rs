//! One running container: found by its bundle, with the map that its first process really has.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use super::check::programs::names;
use super::json::{Value, object};
use super::picture::bars;
use super::source::{heading, kinds, map_of, pid, proc_maps, read};
use super::text::{paragraph, put, span};
use crate::map::chain::bands;
use crate::map::idmap::{Extent, IdMap};
use crate::map::kind::{Both, Kind};
use crate::map::ranges::Ranges;
use crate::map::{cut, printable};
use crate::pod::config::ANNOTATION;
use crate::pod::presence::shares_ours;
use crate::pod::rundir::is_plain_name;
use crate::sys::file;

/// Where containerd keeps the bundles of running containers, by its own namespaces (k8s.io, moby, default).
pub const STATE: &str = "/run/containerd/io.containerd.runtime.v2.task";

/// More than any runtime configuration, in bytes.
const MAX_CONFIG: u64 = 16 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    /// The containerd namespace that it is in.
    pub namespace: String,
    /// The pod's namespace and name, and the container's in it, as the CRI names them; empty elsewhere.
    pub names: [String; 3],
    pub pid: u32,
    /// Its user namespace, if it is not ours: the file that it was joined by, else that of the process.
    pub own: Option<String>,
    /// ociVersion of its configuration.
    pub version: String,
    /// Its ids as our ids.
    pub maps: Both<IdMap>,
    /// Ids that did not get the slot of the rule.
    pub noted: Vec<Noted>,
}

/// A collision, as the plugin noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    kind: Kind,
    id: u64,
    slot: u64,
    held_by: Option<u64>,
    moved_to: Option<u64>,
}

/// Finds the container by its id, or the beginning of it that no other shares.
pub fn find(state: &str, id: &str) -> Result<Container, String> {
    is_plain_name(id).map_err(|_| format!("{:?} is not a container id", cut(id)))?;
    let mut found = bundles(state)?;
    found.retain(|(_, name)| name.starts_with(id));
    if found.iter().any(|(_, name)| name == id) {
        found.retain(|(_, name)| name == id);
    }
    match (found.pop(), found.is_empty()) {
        (Some(bundle), true) => load(state, bundle),
        (Some(_), false) => Err(format!("several containers begin with {:?}", cut(id))),
        (None, _) => Err(format!("no container {:?} runs under {state}", cut(id))),
    }
}

/// Those that run with a user namespace of their own, by their names.
pub fn all(state: &str) -> Result<Vec<Container>, String> {
    let mut all: Vec<Container> = Vec::new();
    for c in bundles(state)?.into_iter().filter_map(|bundle| load(state, bundle).ok()).filter(|c| c.own.is_some()) {
        // A sort of std's for this type makes the file 4 KiB larger.
        all.insert(all.partition_point(|other| other.names <= c.names), c);
    }
    Ok(all)
}

fn load(state: &str, (namespace, id): (String, String)) -> Result<Container, String> {
    let dir = format!("{state}/{namespace}/{id}");
    let config = read(&format!("{dir}/config.json"), MAX_CONFIG)?;
    let config = Value::parse(&config).map_err(|e| format!("{dir}/config.json: {e}"))?;
    let pid = pid(read(&format!("{dir}/init.pid"), 64)?.trim())?;
    // The descriptor stays this process's, even if its pid is given to another.
    let process = file::open_dir(&format!("/proc/{pid}"));
    let process = process.map_err(|e| format!("container {id} does not run: process {pid}: {e}"))?;
    let proc = format!("/proc/self/fd/{}", process.as_raw_fd());
    if !belongs(&proc, &id, &dir) {
        return Err(format!("container {id} does not run: process {pid} is another one's"));
    }
    let mut maps = proc_maps(&proc)?;
    let namespaces = config.at(&["linux", "namespaces"]).map_or(&[][..], Value::list);
    let user = namespaces.iter().find(|n| n.get("type").and_then(Value::text) == Some("user"));
    let path = user.and_then(|n| n.get("path")?.text()).map_or(format!("/proc/{pid}/ns/user"), str::to_owned);
    let own = (!shares_ours(&proc, "user")).then_some(path);
    if own.is_none() {
        // A process of our own namespace shows us the ids around the node instead.
        maps = Both { uids: identity(&maps.uids), gids: identity(&maps.gids) };
    }
    let version = config.get("ociVersion").and_then(Value::text).unwrap_or("1.0.0").to_owned();
    let name = |key| annotation(&config, &format!("io.kubernetes.cri.{key}")).unwrap_or_default().to_owned();
    let names = ["sandbox-namespace", "sandbox-name", "container-name"].map(name);
    Ok(Container { noted: noted(&config), id, namespace, names, pid, own, version, maps })
}

fn identity(map: &IdMap) -> IdMap {
    IdMap::from_disjoint(map.extents().iter().map(|e| Extent { outside: e.inside, ..*e }).collect())
}

/// All bundles: the containerd namespace and the whole id.
fn bundles(state: &str) -> Result<Vec<(String, String)>, String> {
    fs::read_dir(state).map_err(|e| format!("cannot read {state:?}: {e}"))?;
    let mut all = Vec::new();
    for namespace in names(state) {
        all.extend(names(&format!("{state}/{namespace}")).into_iter().map(|id| (namespace.clone(), id)));
    }
    all.retain(|(namespace, id)| is_plain_name(namespace).is_ok() && is_plain_name(id).is_ok());
    Ok(all)
}

fn annotation<'a>(config: &'a Value, key: &str) -> Option<&'a str> {
    config.at(&["annotations", key]).and_then(Value::text)
}

/// Whether the process is the container's: its cgroup has the container's name, or its root is the bundle's.
fn belongs(proc: &str, id: &str, bundle: &str) -> bool {
    let cgroup = read(&format!("{proc}/cgroup"), 64 * 1024).unwrap_or_default();
    let root = |path: String| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    // As a word: the systemd driver writes cri-containerd-ID.scope.
    cgroup.split(['/', '-', '.', ':', '\n']).any(|word| word == id)
        || root(format!("{bundle}/rootfs")).is_some_and(|r| Some(r) == root(format!("{proc}/root/.")))
}

/// What the plugin wrote to the annotation; what is not as it writes is left out.
fn noted(config: &Value) -> Vec<Noted> {
    let list = annotation(config, &format!("{ANNOTATION}/collisions")).and_then(|text| Value::parse(text).ok());
    let entry = |v: &Value| {
        Some(Noted {
            kind: if v.get("type")?.text()? == "gid" { Kind::Gid } else { Kind::Uid },
            id: v.get("id")?.number()?,
            slot: v.get("slot")?.number()?,
            held_by: v.get("heldBy").and_then(Value::number),
            moved_to: v.get("movedTo").and_then(Value::number),
        })
    };
    list.as_ref().map_or(&[][..], Value::list).iter().filter_map(entry).collect()
}

impl Noted {
    fn words(&self) -> String {
        let Noted { kind, id, slot, .. } = self;
        let why = self.held_by.map_or("no line is left in the map".into(), |held| format!("{held} holds it"));
        let end = self.moved_to.map_or("left out".into(), |to| format!("on slot {to} instead"));
        format!("{kind} {id} belongs on slot {slot}, but {why}: {end}")
    }

    fn json(&self) -> Value {
        let (held_by, moved_to) = (self.held_by, self.moved_to);
        let kind = &self.kind.to_string();
        object! { "type": kind, "id": self.id, "slot": self.slot, "heldBy": held_by, "movedTo": moved_to }
    }
}

/// Numbers that the node has and the container lacks, since their slot has another name there.
fn displaced(map: &IdMap, node: &IdMap) -> Ranges {
    let lost = bands(&[map.clone(), identity(node)]).into_iter().filter(|b| b.firsts.len() == 2);
    Ranges::new(lost.map(|b| b.firsts[0]..=b.firsts[0] + (b.count - 1)).collect())
}

/// Ids that have another number in the node.
fn claimed(map: &IdMap) -> impl Iterator<Item = &Extent> {
    map.extents().iter().filter(|e| e.inside != e.outside)
}

/// The container's map as text, beside our own.
pub fn text(c: &Container, node: &Both<IdMap>, gids_only: bool) -> String {
    // An id of 64 hex digits whole; a longer name cut.
    let id = c.id.get(..70).unwrap_or(&c.id);
    let mut text = format!("container {id}\nnamespace {}, process {}\n", c.namespace, c.pid);
    if c.own.is_none() {
        return text + "it has no user namespace of its own: its ids are the node's (see show)\n";
    }
    for kind in kinds(gids_only, true, &[&c.maps, node]) {
        let (map, node) = (map_of(&c.maps, *kind), map_of(node, *kind));
        put(&mut text, format_args!("\n{}\n{}", heading(*kind), bars(map, "container", "node")));
        let on = |e: &Extent| format!("{} on {}", span(e.inside, e.count), span(e.outside, e.count));
        let claimed: Vec<String> = claimed(map).map(on).collect();
        if !claimed.is_empty() {
            paragraph(&mut text, "claimed    ", &claimed.join(", "));
        }
        let displaced = displaced(map, node).listed(usize::MAX);
        if !displaced.is_empty() {
            paragraph(&mut text, "displaced  ", &(displaced + ": ids of the node that do not exist in it"));
        }
        for noted in c.noted.iter().filter(|noted| kind.is_none_or(|kind| noted.kind == kind)) {
            paragraph(&mut text, "collision  ", &noted.words());
        }
    }
    text
}

/// The table of containers: one or two lines each, with the ids that have another number in it than in the node, and the
/// node's ids that do not exist in it. `node` has our own maps.
pub fn table(all: &[Container], node: &Both<IdMap>) -> String {
    let mut rows = vec![["NAMESPACE", "POD", "CONTAINER", "MAP", "CLAIMED", "DISPLACED"].map(str::to_owned)];
    for c in all {
        for kind in kinds(false, true, &[&c.maps, node]) {
            let map = map_of(&c.maps, *kind);
            let claimed = Ranges::new(claimed(map).map(|e| e.inside..=e.inside + (e.count - 1)).collect());
            let displaced = displaced(map, map_of(node, *kind));
            let [namespace, pod, name] = c.names.each_ref().map(|name| printable(name));
            // Elsewhere than in Kubernetes it has only its id.
            let name = if name.is_empty() { c.id.chars().take(12).collect() } else { name };
            let kind = kind.map_or("both".to_owned(), |kind| kind.to_string());
            rows.push([namespace, pod, name, kind, claimed.to_string(), displaced.to_string()]);
        }
    }
    for row in &mut rows {
        row.iter_mut().filter(|cell| cell.is_empty()).for_each(|cell| cell.push('-'));
    }
    let widths: [usize; 5] = std::array::from_fn(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            put(&mut text, format_args!("{cell:width$}  "));
        }
        put(&mut text, format_args!("{}\n", row[5]));
    }
    text
}

/// The same as `text`, of each kind.
pub fn json(c: &Container, node: &Both<IdMap>, gids_only: bool) -> Value {
    let mut members = vec![
        ("id", Value::from(&c.id)),
        ("namespace", (&c.namespace).into()),
        ("pid", c.pid.into()),
        ("ownNamespace", c.own.is_some().into()),
    ];
    members.extend(["podNamespace", "pod", "container"].into_iter().zip(c.names.iter().map(Value::from)));
    for &kind in kinds(gids_only, false, &[]) {
        let (map, node) = (map_of(&c.maps, kind), map_of(node, kind));
        members.push((heading(kind), object! { "map": map, "displaced": &displaced(map, node) }));
    }
    members.push(("collisions", c.noted.iter().map(Noted::json).collect()));
    Value::object(members)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::process::id as own_pid;

    fn map(text: &str) -> IdMap {
        IdMap::parse(text).unwrap()
    }

    fn node() -> Both<IdMap> {
        let own = map("0 2937359488 2048");
        Both { uids: own.clone(), gids: own }
    }

    pub fn container() -> Container {
        let note = r#"[{"type":"gid","id":52044,"slot":848,"heldBy":50000,"movedTo":847},
            {"type":"uid","id":12049,"slot":1809,"heldBy":10001,"movedTo":null},
            {"type":"uid","id":7,"slot":3,"heldBy":null,"movedTo":null},{"more":3}]"#;
        let annotations = format!("{{\"annotations\":{{\"{ANNOTATION}/collisions\":{}}}}}", Value::from(note));
        Container {
            id: "0123456789abcdef".repeat(4),
            namespace: "k8s.io".into(),
            names: ["default", "user-20001", "app"].map(str::to_owned),
            pid: 4242,
            own: Some("/run/uid-nri-plugin/pods/p/0.user".into()),
            version: "1.3.0".into(),
            maps: Both { uids: map("0 0 1809\n1810 1810 234\n10001 1809 1\n65532 2044 4\n"), gids: map("0 0 2048\n") },
            noted: noted(&Value::parse(&annotations).unwrap()),
        }
    }

    #[test]
    fn shows_what_is_claimed_and_displaced() {
        let (c, node) = (container(), node());
        assert_eq!(
            text(&c, &node, false),
            "\
container 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
namespace k8s.io, process 4242

uids
 container                                            node
         0 [############################] 1808        0-1808
      1810 [###]                          2043        1810-2043
     10001 [#]                                        1809
     65532 [#]                            65535       2044-2047
claimed    10001 on 1809, 65532-65535 on 2044-2047
displaced  1809, 2044-2047: ids of the node that do not exist in it
collision  uid 12049 belongs on slot 1809, but 10001 holds it: left out
collision  uid 7 belongs on slot 3, but no line is left in the map: left out

gids
 container                                            node
         0 [############################] 2047        0-2047
collision  gid 52044 belongs on slot 848, but 50000 holds it: on slot 847
           instead
"
        );
        assert!(json(&c, &node, true).to_string().ends_with(
            "\"pid\":4242,\"ownNamespace\":true,\"podNamespace\":\"default\",\"pod\":\"user-20001\",\"container\":\"app\",\"gids\":{\"map\":[{\"containerID\":0,\"hostID\":0,\"size\":2048}],\"displaced\":[]},\
             \"collisions\":[{\"type\":\"gid\",\"id\":52044,\"slot\":848,\"heldBy\":50000,\"movedTo\":847},\
             {\"type\":\"uid\",\"id\":12049,\"slot\":1809,\"heldBy\":10001,\"movedTo\":null},\
             {\"type\":\"uid\",\"id\":7,\"slot\":3,\"heldBy\":null,\"movedTo\":null}]}"
        ));
        let same = Container { own: None, ..c };
        assert!(
            text(&same, &node, false)
                .ends_with("\nit has no user namespace of its own: its ids are the node's (see show)\n")
        );
    }

    #[test]
    fn containers_are_listed() {
        let node = node();
        let uids = container().maps.uids;
        let maps = Both { uids: uids.clone(), gids: uids };
        let elsewhere = Container { names: Default::default(), maps, ..container() };
        let hostile = Container { names: ["kube-system", "a\n\u{1b}[2J", "x"].map(str::to_owned), ..elsewhere.clone() };
        assert_eq!(
            table(&[container(), elsewhere, hostile], &node),
            "\
NAMESPACE    POD           CONTAINER     MAP   CLAIMED            DISPLACED
default      user-20001    app           uid   10001,65532-65535  1809,2044-2047
default      user-20001    app           gid   -                  -
-            -             0123456789ab  both  10001,65532-65535  1809,2044-2047
kube-system  a\\n\\u{1b}[2J  x             both  10001,65532-65535  1809,2044-2047
"
        );
        assert_eq!(table(&[], &node), "NAMESPACE  POD  CONTAINER  MAP  CLAIMED  DISPLACED\n");
    }

    #[test]
    fn displaced_ids_are_those_that_only_the_node_has() {
        let gone = |container, node| displaced(&map(container), &map(node)).to_string();
        assert_eq!(gone("0 0 10\n100 12 1", "0 1 10\n12 50 3"), "12-14");
        assert_eq!(gone("5 0 1", "0 0 4294967295"), "0-4,6-4294967294");
        assert_eq!(gone("4294967294 0 1", "0 0 4294967295"), "0-4294967293");
        assert_eq!(gone("0 5 10", "0 1 10"), "");
    }

    /// A state folder with bundles: of this very process, of one that is gone, and of somebody else's.
    #[test]
    fn finds_what_runs_and_says_what_does_not() {
        let state = std::env::temp_dir().join(format!("uid-nri-plugin-state-{}", own_pid()));
        let make = |name: &str, pid: u32, rootfs: &str| {
            let dir = state.join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::write(
                dir.join("config.json"),
                "{\"ociVersion\":\"1.3.0\",\"linux\":{\"namespaces\":[{\"type\":\"pid\"}]},\"annotations\":\
                 {\"io.kubernetes.cri.sandbox-name\":\"web\",\"io.kubernetes.cri.container-name\":\"app\"}}",
            )
            .unwrap();
            fs::write(dir.join("init.pid"), pid.to_string()).unwrap();
            std::os::unix::fs::symlink(rootfs, dir.join("rootfs")).unwrap();
        };
        make("k8s.io/abcd", own_pid(), "/");
        make("k8s.io/abce", own_pid(), "/proc");
        make("moby/xyz", i32::MAX as u32, "/");
        make("moby/bad", 1, "/");
        fs::write(state.join("moby/bad/config.json"), "{").unwrap();
        let path = state.to_str().unwrap();
        let error = |id: &str| find(path, id).unwrap_err();
        let (found, exact) = (find(path, "abcd").unwrap(), find(path, "ab"));
        assert_eq!(
            (found.id.as_str(), found.namespace.as_str(), found.pid, found.own),
            ("abcd", "k8s.io", own_pid(), None)
        );
        assert_eq!(found.names, ["", "web", "app"]);
        // It runs, but in our own namespace; the others do not run.
        assert_eq!(all(path).unwrap(), []);
        assert_eq!(exact.unwrap_err(), "several containers begin with \"ab\"");
        assert_eq!(error("abce"), format!("container abce does not run: process {} is another one's", own_pid()));
        assert_eq!(
            error("x"),
            "container xyz does not run: process 2147483647: No such file or directory (os error 2)"
        );
        assert_eq!(error("q"), format!("no container \"q\" runs under {path}"));
        assert!(error("bad").contains("config.json: not JSON"), "{}", error("bad"));
        for id in ["../x", "", ".", "a/b", "a\nb"] {
            assert_eq!(error(id), format!("{id:?} is not a container id"));
        }
        fs::remove_dir_all(&state).unwrap();
        assert!(error("abcd").starts_with("cannot read "));
    }
}
