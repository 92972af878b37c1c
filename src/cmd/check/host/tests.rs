use super::super::kernel::{NOT_TRIED, tests::GOOD};
use super::super::{State, worst};
use super::*;

fn tool(name: &'static str) -> Tool {
    Tool { name, path: Some(format!("/usr/bin/{name}")), privileged: true }
}

fn ids(count: u32) -> Subordinate {
    Subordinate { ranges: vec![100_000..=99_999 + count], ..Subordinate::default() }
}

fn good() -> Facts {
    Facts {
        machine: true,
        user: Ok(("alice".into(), 1000, Some(100))),
        uid: 1000,
        login: "alice".into(),
        source: None,
        subordinate: Both { uids: ids(2048), gids: ids(2048) },
        free: 165_536,
        tools: [tool("newuidmap"), tool("newgidmap")],
        mapped: Some(Ok(())),
        limits: Limits { most: Some(96365), apparmor: Some(1), clone: None },
        kernel: Kernel { release: "6.18.44".into(), ..GOOD },
        supervised: false,
        cgroup2: true,
        controllers: Some("cpuset cpu io memory pids".into()),
        runtime_dir: ("/run/user/1000".into(), true),
        lingers: true,
        missing: vec![],
        strict: false,
        fuse: true,
        engines: vec![("podman", Some(Ok(true))), ("docker", Some(Ok(false)))],
        packages: ("sudo apt-get install", "uidmap"),
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
ok       newuidmap   /usr/bin/newuidmap; /usr/bin/newgidmap; they make the
                     planned map
ok       namespaces  this user makes user namespaces (limit 96365)
ok       kernel      6.18.44; new mounts; overlay; seccomp notification;
                     idmapped mounts
ok       others      no seccomp listener in the way
ok       cgroup      version 2 with cpu, memory and pids
ok       session     XDG_RUNTIME_DIR /run/user/1000
ok       network     modules and rp_filter are as Kubernetes' networks need them
ok       fuse        /dev/fuse
ok       engine      podman, rootless; docker, not rootless
";
    assert_eq!(text(&good()), expected);
    assert_eq!(worst(&findings(&good())), State::Ok);
}

#[test]
fn an_account_with_nothing() {
    let facts = Facts {
        subordinate: Both::default(),
        tools: ["newuidmap", "newgidmap"].map(|name| Tool { name, path: None, privileged: false }),
        mapped: None,
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
        runtime_dir: (String::new(), false),
        lingers: false,
        missing: vec!["br_netfilter", "vxlan"],
        strict: true,
        fuse: false,
        engines: vec![],
        packages: ("sudo dnf install", "shadow-utils"),
        ..good()
    };
    let expected = "\
problem  ids         0 subordinate uids and 0 gids for alice
         echo alice:165536:2048 | sudo tee -a /etc/subuid
         echo alice:165536:2048 | sudo tee -a /etc/subgid
problem  newuidmap   newuidmap is not installed; newgidmap is not installed
         sudo dnf install shadow-utils
problem  namespaces  this user makes no user namespaces: Permission denied
         sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
ok       kernel      6.18.44; seccomp notification
ok       others      no seccomp listener in the way
problem  cgroup      not version 2
         sudo grubby --update-kernel=ALL \\
           --args=systemd.unified_cgroup_hierarchy=1
warning  session     XDG_RUNTIME_DIR is not set; no linger: the node ends when
                     you log out
         export XDG_RUNTIME_DIR=/run/user/1000  # logging in makes it, su not
         sudo loginctl enable-linger alice
warning  network     not loaded: br_netfilter vxlan;
                     net.ipv4.conf.default.rp_filter is 1: packets between nodes
                     are dropped
         sudo modprobe -a br_netfilter vxlan
         printf '%s\\n' br_netfilter vxlan | sudo tee \\
           /etc/modules-load.d/usernetes.conf
         echo net.ipv4.conf.default.rp_filter=2 | sudo tee \\
           /etc/sysctl.d/99-usernetes.conf
         sudo sysctl --system
warning  fuse        no /dev/fuse for fuse-overlayfs
         sudo modprobe fuse && sudo chmod 666 /dev/fuse
problem  engine      no podman, docker or nerdctl to run the node
         sudo dnf install podman
";
    assert_eq!(text(&facts), expected);
}

#[test]
fn what_newuidmap_judges() {
    let expected = "\
warning  ids         2048 subordinate uids and 16 gids for alice: few
         echo alice:165536:2048 | sudo tee -a /etc/subgid
";
    assert_eq!(one("ids", |f| f.subordinate.gids = ids(16)), expected);
    let expected = "\
warning  ids         2048 subordinate uids and 16 gids for alice: few
         # have sss give more of them (nsswitch.conf)
";
    let elsewhere = |f: &mut Facts| (f.subordinate.gids, f.source) = (ids(16), Some("sss".into()));
    assert_eq!(one("ids", elsewhere), expected);
    let expected = "\
problem  ids         /etc/subuid: line 3, \"alice:101000:2048\": overlaps another
                     line of this user: newuidmap refuses it
         sudoedit /etc/subuid
";
    let why = "/etc/subuid: line 3, \"alice:101000:2048\": overlaps another line of this user";
    assert_eq!(one("ids", |f| f.subordinate.uids.refused = Some(why.into())), expected);
    let unknown = one("ids", |f| (f.subordinate.uids.refused, f.source) = (Some("x".into()), Some("sss".into())));
    assert_eq!(unknown, "warning  ids         x\n         getsubids alice\n");
    let blank = one("ids", |f| f.subordinate.gids.ignored = vec!["/etc/subgid: line 1".into()]);
    let expected = "\
warning  ids         /etc/subgid: line 1: newuidmap passes over it; 2048
                     subordinate uids and 2048 gids for alice
         sudoedit /etc/subgid
";
    assert_eq!(blank, expected);
    let nobody = one("ids", |f| f.user = Err("there is no user \"1000\"".into()));
    assert_eq!(nobody, "problem  ids         there is no user \"1000\"\n         getent passwd 1000\n");
    let expected = "\
warning  ids         USER is b\\nob, and Podman takes that one's ids; 2048
                     subordinate uids and 2048 gids for alice
         export USER=alice
";
    assert_eq!(one("ids", |f| f.login = "b\nob".into()), expected);
    let root = one("ids", |f| f.uid = 0);
    assert!(root.starts_with("warning  ids         this is root: ask as the user who is to start the node;\n"));
    assert!(one("ids", |f| f.user = Ok(("a b".into(), 1000, None))).contains("for a b\n"));
    let expected = "\
problem  newuidmap   /usr/bin/newuidmap; /usr/bin/newgidmap; newuidmap: write to
                     uid_map failed: Operation not permitted
         uid-nri-plugin plan  # the map that was tried
         id; findmnt -T /usr/bin  # its group, and nosuid
";
    let said = "newuidmap: write to uid_map failed: Operation not permitted";
    assert_eq!(one("newuidmap", |f| f.mapped = Some(Err(said.into()))), expected);
    let expected = "\
problem  newuidmap   /usr/bin/newuidmap; /usr/bin/newgidmap is neither set-uid
                     root nor has capabilities
         sudo chmod u+s /usr/bin/newgidmap
";
    let plain = |f: &mut Facts| (f.tools[1].privileged, f.mapped) = (false, None);
    assert_eq!(one("newuidmap", plain), expected);
}

#[test]
fn single_changes() {
    let inside = findings(&Facts { machine: false, ..good() });
    assert_eq!((inside[0].name, inside[0].state, inside.len()), ("place", State::Warning, 11));
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
    let boot = "         # boot with systemd.unified_cgroup_hierarchy=1 (kernel's command line)\n";
    assert!(one("cgroup", |f| f.cgroup2 = false).ends_with(boot));
    let closed = one("session", |f| f.runtime_dir.1 = false);
    assert!(closed.contains("XDG_RUNTIME_DIR is nothing that can be written to\n"), "{closed}");
    let unneeded = one("fuse", |f| f.fuse = false);
    assert_eq!(unneeded, "ok       fuse        no /dev/fuse, and none needed: overlay works\n");
    assert!(one("others", |f| f.kernel.listener = libc::EBUSY).starts_with("warning  others      "));
    let dead =
        |f: &mut Facts| f.engines = vec![("docker", Some(Err("Cannot connect".into()))), ("podman", Some(Ok(false)))];
    let expected = "\
problem  engine      docker does not answer: Cannot connect; podman, not
                     rootless; no rootless engine answers
         docker info
";
    assert_eq!(one("engine", dead), expected);
    let one_works = |f: &mut Facts| f.engines[1].1 = Some(Err("Cannot connect".into()));
    assert_eq!(one("engine", one_works), "ok       engine      podman, rootless; docker does not answer\n");
    assert_eq!(one("engine", |f| f.engines = vec![("docker", None)]), "ok       engine      docker\n");
}

#[test]
fn a_place_for_ids_is_found() {
    let files = "alice:100000:2048\n\nx:x:1\nbob:104096:65536\n\ncarol:102048:1\n";
    assert_eq!((free("", [0, 0]), free(files, [0, 0])), (100_000, 169_632));
    assert_eq!((free(files, [170_000, 0]), free(files, [0, 171_679])), (170_001, 171_680));
    assert_eq!(free("a:0:4294967295", [0, 0]), 4_294_967_295);
}

#[test]
fn distributions_are_known() {
    let of = |text: &str| packages(text).0;
    assert_eq!(packages("NAME=x\nID=debian\n"), ("sudo apt-get install", "uidmap"));
    assert_eq!(of("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"), "sudo dnf install");
    assert_eq!(of("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n"), "sudo zypper install");
    assert_eq!((of("ID=ubuntu\nID_LIKE=debian"), of("VERSION_ID=debian")), ("sudo apt-get install", "# install"));
}

/// On whatever machine and as whoever this runs: ten lines.
#[test]
fn facts_are_gathered() {
    let found = findings(&Facts::gather());
    assert_eq!(found.len(), 10);
    for f in found {
        assert!(!f.found.is_empty() && (f.state == State::Ok) == f.remedy.is_empty(), "{f:?}");
    }
}
