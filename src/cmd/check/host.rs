//! The findings about an account and its machine, before there is a node.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use super::super::subid;
use super::facts::{Limits, controllers};
use super::kernel::{Kernel, errno_text};
use super::node::judge_controllers;
use super::programs::{find, read};
use super::{Finding, shell};
use crate::pod::presence::{self, field};
use crate::sys::probe;

/// What is so.
#[derive(Clone, Debug)]
pub struct Facts {
    user: String,
    uid: u32,
    /// What /etc/nsswitch.conf has for subid, if that is not the files.
    source: Option<String>,
    subuids: Subordinate,
    subgids: Subordinate,
    /// newuidmap and newgidmap.
    tools: [Tool; 2],
    limits: Limits,
    kernel: Kernel,
    supervised: bool,
    cgroup2: bool,
    /// The controllers that systemd has delegated to the user; None: there is no user manager.
    controllers: Option<String>,
    fuse: bool,
    engines: Vec<&'static str>,
}

/// Of /etc/subuid or /etc/subgid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Subordinate {
    /// How many ids the user has.
    count: u64,
    /// The first id after all ranges of the file.
    free: u64,
}

/// A program that has to have rights of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tool {
    name: &'static str,
    path: Option<String>,
    privileged: bool,
}

/// How many subordinate ids a node should have.
const WANTED: u64 = 2048;
/// With fewer, so many ids share a slot that it hurts.
const FEW: u64 = 1000;
const MAX_FILE: u64 = 16 << 20;

impl Facts {
    /// Looks around.
    pub fn gather() -> Facts {
        let status = read("/proc/self/status", 16 << 10);
        let id = |name| field(&status, name).and_then(|ids| ids.split_ascii_whitespace().nth(1)?.parse().ok());
        let (uid, gid) = (id("Uid:").unwrap_or(0), id("Gid:").unwrap_or(0));
        let (user, ..) = subid::current(&read("/etc/passwd", MAX_FILE), uid, subid::login());
        let slice = format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers");
        let root = controllers();
        let delegated =
            if uid == 0 { root.clone() } else { fs::exists(&slice).is_ok_and(|is| is).then(|| read(&slice, 4096)) };
        Facts {
            source: source(&read("/etc/nsswitch.conf", MAX_FILE)),
            subuids: Subordinate::parse(&read("/etc/subuid", MAX_FILE), &user, uid),
            subgids: Subordinate::parse(&read("/etc/subgid", MAX_FILE), &user, uid),
            tools: ["newuidmap", "newgidmap"].map(Tool::gather),
            limits: Limits::gather(),
            kernel: Kernel::gather(Some((uid, gid))),
            supervised: presence::we_are_supervised(),
            cgroup2: root.is_some(),
            controllers: delegated.map(|list| list.trim().to_owned()),
            fuse: File::options().read(true).write(true).open("/dev/fuse").is_ok(),
            engines: ["podman", "docker", "nerdctl"].into_iter().filter(|name| find(name).is_some()).collect(),
            user,
            uid,
        }
    }
}

impl Subordinate {
    fn parse(text: &str, user: &str, uid: u32) -> Subordinate {
        let uid = uid.to_string();
        let mut found = Subordinate::default();
        for (_, who, range) in subid::entries(text) {
            let Ok(range) = range else { continue };
            found.free = found.free.max(u64::from(*range.end()) + 1);
            if who == user || who == uid {
                found.count += u64::from(range.end() - range.start()) + 1;
            }
        }
        found
    }
}

impl Tool {
    fn gather(name: &'static str) -> Tool {
        let path = find(name);
        let set_uid = |path: &str| fs::metadata(path).is_ok_and(|m| m.mode() & 0o4000 != 0 && m.uid() == 0);
        let privileged = path.as_deref().is_some_and(|path| set_uid(path) || probe::has_file_capabilities(path));
        Tool { name, path, privileged }
    }
}

fn source(nsswitch: &str) -> Option<String> {
    let line = nsswitch.lines().find_map(|line| line.trim().strip_prefix("subid:"))?;
    let source = line.split('#').next().unwrap_or_default().trim();
    (source != "files").then(|| source.to_owned())
}

/// Gathers and judges.
pub fn check() -> Vec<Finding> {
    // Facts are needed to the end of the process, and not dropped one by one.
    findings(Box::leak(Box::new(Facts::gather())))
}

/// All of them.
fn findings(facts: &Facts) -> Vec<Finding> {
    [ids, newuidmap, namespaces, kernel, others, cgroup, fuse, engine].iter().map(|judge| judge(facts)).collect()
}

fn ids(facts: &Facts) -> Finding {
    let mut f = Finding::new("ids");
    if facts.uid == 0 {
        f.warn(
            "this is root: ask as the user who is to start the node",
            &["su - USER -c 'uid-nri-plugin check --host'"],
        );
    }
    let (uids, gids) = (facts.subuids.count, facts.subgids.count);
    let text = format!("{uids} subordinate uids and {gids} gids for {}", facts.user);
    if let (Some(source), true) = (&facts.source, uids == 0 || gids == 0) {
        let user = shell(&facts.user);
        let ask = [format!("getsubids {user}"), format!("getsubids -g {user}")];
        f.warn(&format!("subordinate ids come from {source}, and cannot be counted here"), &[&ask[0], &ask[1]]);
        return f;
    }
    let free = facts.subuids.free.max(facts.subgids.free).max(100_000);
    let line = shell(&format!("{}:{free}:{WANTED}", facts.user));
    let add = |file| format!("echo {line} | sudo tee -a {file}");
    let files: Vec<String> =
        [(uids, "/etc/subuid"), (gids, "/etc/subgid")].iter().filter(|(n, _)| *n < FEW).map(|(_, f)| add(f)).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    match uids.min(gids) {
        _ if facts.uid == 0 => f.note(&text),
        0 => f.problem(&text, &files),
        n if n < FEW => f.warn(&format!("{text}: few"), &files),
        _ => f.note(&text),
    }
    f
}

fn newuidmap(facts: &Facts) -> Finding {
    let mut f = Finding::new("newuidmap");
    for tool in &facts.tools {
        match &tool.path {
            None => f.problem(&format!("{} is not installed", tool.name), &["sudo apt-get install uidmap"]),
            Some(path) if !tool.privileged => {
                let remedy = format!("sudo chmod u+s {}", shell(path));
                f.problem(&format!("{path} is neither set-uid root nor has capabilities"), &[&remedy]);
            }
            Some(path) => f.note(path),
        }
    }
    f
}

fn namespaces(facts: &Facts) -> Finding {
    let mut f = Finding::new("namespaces");
    let most = facts.limits.most;
    match (facts.kernel.namespaces, most) {
        (0, Some(most)) if most < FEW => {
            let remedy = "sudo sysctl -w user.max_user_namespaces=65536";
            f.warn(&format!("only {most} user namespaces are allowed"), &[remedy]);
        }
        (0, Some(most)) => f.note(&format!("this user makes user namespaces (limit {most})")),
        (0, None) => f.note("this user makes user namespaces"),
        (e, _) => {
            let text = format!("this user makes no user namespaces: {}", errno_text(e));
            f.problem(&text, &[facts.limits.remedy()]);
        }
    }
    f
}

fn kernel(facts: &Facts) -> Finding {
    facts.kernel.finding()
}

fn others(facts: &Facts) -> Finding {
    let mut f = Finding::new("others");
    facts.kernel.judge_listener(&mut f, facts.supervised);
    if f.found.is_empty() {
        f.note("no seccomp listener in the way");
    }
    f
}

fn cgroup(facts: &Facts) -> Finding {
    let mut f = Finding::new("cgroup");
    match (&facts.controllers, facts.cgroup2) {
        (_, false) => {
            f.problem("not version 2", &["sudo grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1"]);
        }
        (None, true) => {
            let remedy = format!("sudo loginctl enable-linger {}", shell(&facts.user));
            f.warn("no systemd user manager, which delegates controllers", &[&remedy]);
        }
        (Some(list), true) => judge_controllers(&mut f, list),
    }
    f
}

fn fuse(facts: &Facts) -> Finding {
    let mut f = Finding::new("fuse");
    match (facts.fuse, facts.kernel.overlay) {
        (true, _) => f.note("/dev/fuse"),
        (false, 0) => f.note("no /dev/fuse, and none needed: overlay works"),
        (false, _) => f.warn("no /dev/fuse for fuse-overlayfs", &["sudo modprobe fuse && sudo chmod 666 /dev/fuse"]),
    }
    f
}

fn engine(facts: &Facts) -> Finding {
    let mut f = Finding::new("engine");
    match facts.engines[..] {
        [] => f.problem("no podman, docker or nerdctl to run the node", &["sudo apt-get install podman"]),
        _ => f.note(&facts.engines.join(", ")),
    }
    f
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{NOT_TRIED, tests::GOOD};
    use super::super::{State, worst};
    use super::*;

    fn tool(name: &'static str) -> Tool {
        Tool { name, path: Some(format!("/usr/bin/{name}")), privileged: true }
    }

    fn good() -> Facts {
        Facts {
            user: "alice".into(),
            uid: 1000,
            source: None,
            subuids: Subordinate { count: 2048, free: 167_584 },
            subgids: Subordinate { count: 2048, free: 165_536 },
            tools: [tool("newuidmap"), tool("newgidmap")],
            limits: Limits { most: Some(96365), apparmor: Some(1), clone: None },
            kernel: Kernel { release: "6.18.44".into(), ..GOOD },
            supervised: false,
            cgroup2: true,
            controllers: Some("cpuset cpu io memory pids".into()),
            fuse: true,
            engines: vec!["podman", "docker"],
        }
    }

    fn text(facts: &Facts) -> String {
        findings(facts).iter().map(Finding::text).collect()
    }

    /// The text of one finding, of facts that are good but for one change.
    fn one(name: &str, change: impl FnOnce(&mut Facts)) -> String {
        let mut facts = good();
        change(&mut facts);
        findings(&facts).iter().find(|f| f.name == name).unwrap().text()
    }

    #[test]
    fn a_good_account() {
        let expected = "\
ok       ids         2048 subordinate uids and 2048 gids for alice
ok       newuidmap   /usr/bin/newuidmap; /usr/bin/newgidmap
ok       namespaces  this user makes user namespaces (limit 96365)
ok       kernel      6.18.44; new mounts; overlay; seccomp notification;
                     idmapped mounts
ok       others      no seccomp listener in the way
ok       cgroup      version 2 with cpu, memory and pids
ok       fuse        /dev/fuse
ok       engine      podman, docker
";
        assert_eq!(text(&good()), expected);
        assert_eq!(worst(&findings(&good())), State::Ok);
    }

    #[test]
    fn an_account_with_nothing() {
        let facts = Facts {
            subuids: Subordinate { count: 0, free: 165_536 },
            subgids: Subordinate::default(),
            tools: ["newuidmap", "newgidmap"].map(|name| Tool { name, path: None, privileged: false }),
            kernel: Kernel {
                namespaces: libc::EACCES,
                mounts: NOT_TRIED,
                overlay: NOT_TRIED,
                idmapped: NOT_TRIED,
                listener: NOT_TRIED,
                ..good().kernel
            },
            cgroup2: false,
            controllers: None,
            fuse: false,
            engines: vec![],
            ..good()
        };
        let expected = "\
problem  ids         0 subordinate uids and 0 gids for alice
         echo alice:165536:2048 | sudo tee -a /etc/subuid
         echo alice:165536:2048 | sudo tee -a /etc/subgid
problem  newuidmap   newuidmap is not installed; newgidmap is not installed
         sudo apt-get install uidmap
problem  namespaces  this user makes no user namespaces: Permission denied
         sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
ok       kernel      6.18.44; seccomp notification
ok       others      no seccomp listener in the way
problem  cgroup      not version 2
         sudo grubby --update-kernel=ALL \\
           --args=systemd.unified_cgroup_hierarchy=1
warning  fuse        no /dev/fuse for fuse-overlayfs
         sudo modprobe fuse && sudo chmod 666 /dev/fuse
problem  engine      no podman, docker or nerdctl to run the node
         sudo apt-get install podman
";
        assert_eq!(text(&facts), expected);
    }

    #[test]
    fn single_changes() {
        let expected = "\
warning  ids         2048 subordinate uids and 16 gids for alice: few
         echo alice:167584:2048 | sudo tee -a /etc/subgid
";
        assert_eq!(one("ids", |f| f.subgids.count = 16), expected);
        let elsewhere = |f: &mut Facts| {
            f.subuids.count = 0;
            f.source = Some("sss".into());
        };
        let expected = "\
warning  ids         subordinate ids come from sss, and cannot be counted here
         getsubids alice
         getsubids -g alice
";
        assert_eq!(one("ids", elsewhere), expected);
        let root = one("ids", |f| f.uid = 0);
        assert!(root.starts_with("warning  ids         this is root: ask as the user who is to start the node;\n"));
        assert!(one("ids", |f| f.user = "a b".into()).contains("for a b\n"));
        let expected = "\
problem  newuidmap   /usr/bin/newuidmap; /usr/bin/newgidmap is neither set-uid
                     root nor has capabilities
         sudo chmod u+s /usr/bin/newgidmap
";
        assert_eq!(one("newuidmap", |f| f.tools[1].privileged = false), expected);
        let expected = "\
warning  namespaces  only 10 user namespaces are allowed
         sudo sysctl -w user.max_user_namespaces=65536
";
        assert_eq!(one("namespaces", |f| f.limits.most = Some(10)), expected);
        let expected = "\
warning  cgroup      no systemd user manager, which delegates controllers
         sudo loginctl enable-linger alice
";
        assert_eq!(one("cgroup", |f| f.controllers = None), expected);
        assert!(one("cgroup", |f| f.controllers = Some("memory pids".into())).contains("version 2 without cpu\n"));
        let unneeded = one("fuse", |f| f.fuse = false);
        assert_eq!(unneeded, "ok       fuse        no /dev/fuse, and none needed: overlay works\n");
        assert!(one("others", |f| f.kernel.listener = libc::EBUSY).starts_with("warning  others      "));
    }

    #[test]
    fn ranges_are_counted() {
        let text = "# users\nalice:100000:2048\n\nbob:200000:65536\n1000:300000:10\n alice:400000:1 \n\
            alice:x:1\nalice:-1:1\nalice:4294967295:4294967295\nalice\nalice:1:18446744073709551616\n";
        let found = Subordinate::parse(text, "alice", 1000);
        assert_eq!(found, Subordinate { count: 2059, free: 400_001 });
        assert_eq!(Subordinate::parse(text, "bob", 1001).count, 65536);
        assert_eq!(Subordinate::parse(text, "carol", 1002).count, 0);
        assert_eq!(Subordinate::parse("\u{0}::\u{fffd}", "", 0), Subordinate::default());
    }

    #[test]
    fn names_and_sources_are_read() {
        assert_eq!(source("passwd: files\nsubid: sss # central\n").as_deref(), Some("sss"));
        assert_eq!(source("passwd: files\nsubid:  files\n"), None);
        assert_eq!(source(""), None);
    }

    /// On whatever machine and as whoever this runs: eight lines.
    #[test]
    fn facts_are_gathered() {
        let found = findings(&Facts::gather());
        assert_eq!(found.len(), 8);
        for f in found {
            assert!(!f.found.is_empty() && (f.state == State::Ok) == f.remedy.is_empty(), "{f:?}");
        }
    }
}
