//! A node's findings, word for word.

use super::super::facts::Limits;
use super::super::kernel::{Kernel, NOT_TRIED, tests::GOOD};
use super::super::programs::{Containerd, Kubelet, OciRuntime, PluginFile};
use super::super::{config::ContainerdConfig, worst};
use super::*;
use crate::map::idmap::IdMap;

fn node_ids(map: &str) -> NodeIds {
    NodeIds::new(&IdMap::parse(map).unwrap()).unwrap()
}

fn with_ids(map: &str) -> Facts {
    let plugin = |name: &str, origin| PluginFile { name: name.into(), executable: true, origin };
    Facts {
        ids: Ok(Both { uids: node_ids(map), gids: node_ids(map) }),
        root: true,
        capabilities: (1 << 41) - 1,
        setgroups_denied: false,
        namespace: Ok(()),
        limits: Limits { most: Some(96365), apparmor: None, clone: None },
        pinned: 0,
        kernel: Kernel { release: "6.18.44".into(), ..GOOD },
        supervised: false,
        containerd: Containerd {
            pid: Some(120),
            version: Some(Ok("v2.3.4".into())),
            nri: "0.12.0".into(),
            supervised: false,
            config_path: "/etc/containerd/config.toml".into(),
            config: ContainerdConfig::default(),
        },
        kubelet: None,
        tmpfs: None,
        mounts: vec!["/".into(), "/proc".into(), "/optional".into()],
        drop_in: ("/etc/nri/conf.d/00-uid-mapper.conf".into(), String::new()),
        plugins: vec![plugin("00-uid-mapper", Origin::This)],
        old_plugin: None,
        nri_socket: true,
        acting: Some(131),
        runtime: Some(OciRuntime { path: "/usr/local/sbin/runc".into(), version: Ok(("runc".into(), "1.4.3".into())) }),
        journald: true,
        controllers: Some("cpuset cpu io memory pids".into()),
        this: "/opt/nri/plugins/00-uid-mapper".into(),
    }
}

fn good() -> Facts {
    with_ids("0 1 2044\n65532 2045 4\n")
}

fn text(facts: &Facts) -> String {
    findings(facts).iter().map(Finding::text).collect()
}

/// The text of one finding, of facts that are good but for one change.
fn one(name: &str, change: impl FnOnce(&mut Facts)) -> String {
    let mut facts = good();
    change(&mut facts);
    of(name, &facts)
}

fn of(name: &str, facts: &Facts) -> String {
    findings(facts).iter().find(|f| f.name == name).unwrap().text()
}

#[test]
fn a_good_node() {
    let expected = "\
ok       ids         0-2043, 65532-65535: a pool of 2044
ok       root        makes and maps user namespaces (limit 96365)
ok       sandboxes   the pause image's id 65535 is in the node's map
ok       kernel      6.18.44; new mounts; overlay; seccomp notification;
                     idmapped mounts
ok       containerd  v2.3.4 (NRI 0.12.0); namespaces can be adjusted
ok       kubelet     none runs here
ok       plugin      /opt/nri/plugins/00-uid-mapper; pid 131 acts
ok       runtime     runc 1.4.3; takes the map of a namespace that it joins
ok       others      no other plugin, validator or seccomp listener in the way
ok       journald    takes messages: journalctl -t uid-nri-plugin
ok       cgroup      version 2 with cpu, memory and pids
";
    assert_eq!(text(&good()), expected);
    assert_eq!(worst(&findings(&good())), State::Ok);
}

#[test]
fn a_bare_node() {
    let facts = Facts {
        ids: Err("/proc/self/uid_map: no 0".into()),
        root: false,
        capabilities: 0,
        namespace: Err((0, String::new())),
        limits: Limits::default(),
        kernel: Kernel {
            namespaces: libc::EPERM,
            mounts: NOT_TRIED,
            overlay: NOT_TRIED,
            idmapped: NOT_TRIED,
            listener: NOT_TRIED,
            ..good().kernel
        },
        containerd: Containerd { config_path: "/etc/containerd/config.toml".into(), ..Containerd::default() },
        plugins: vec![],
        nri_socket: false,
        acting: None,
        runtime: None,
        journald: false,
        controllers: None,
        this: "/home/a user/uid-nri-plugin".into(),
        ..good()
    };
    let expected = "\
problem  ids         /proc/self/uid_map: no 0
         podman run --uidmap 0:0:2048 --gidmap 0:0:2048 IMAGE  # on the host
problem  root        this is not the node's root: what follows is what this user
                     can do
         sudo '/home/a user/uid-nri-plugin' check
warning  sandboxes   not known without ids
         uid-nri-plugin plan  # on the host
ok       kernel      6.18.44; seccomp notification
problem  containerd  containerd is not installed
         # take a node image with containerd 2.3 and runc 1.2 or later
ok       kubelet     none runs here
problem  plugin      not in /opt/nri/plugins
         install -Dm755 '/home/a user/uid-nri-plugin' \\
           /opt/nri/plugins/00-uid-mapper
         systemctl restart containerd
problem  runtime     neither runc nor crun is installed
         # take a node image with containerd 2.3 and runc 1.2 or later
ok       others      no other plugin, validator or seccomp listener in the way
warning  journald    no /run/systemd/journal/socket: what a launched plugin says
                     is lost
         systemctl start systemd-journald.socket systemd-journald
problem  cgroup      not version 2
         uid-nri-plugin check --host  # on the host: how it becomes that
";
    assert_eq!(text(&facts), expected);
    assert_eq!(worst(&findings(&facts)), State::Problem);
    assert!(text(&facts).lines().all(|line| line.len() <= 80));
}

#[test]
fn maps() {
    let plain = with_ids("0 1 2048\n");
    let expected = "\
problem  sandboxes   the stock pause image's id 65535 is neither in the node's
                     map nor folded by supervise: no pod starts
         podman run --uidmap 0:0:2044 --uidmap 65532:2044:4 --gidmap 0:0:2044 \\
           --gidmap 65532:2044:4 IMAGE  # on the host
         # or, where the map cannot be chosen,
         # in the node's Dockerfile:
         # COPY --from=uid-nri-plugin /uid-nri-plugin /usr/local/bin/
         # ENTRYPOINT [\"uid-nri-plugin\", \"node\", \"--\", ... as it was]
";
    assert_eq!(of("sandboxes", &plain), expected);
    let mut folded = plain.clone();
    folded.containerd.supervised = true;
    let expected = "ok       sandboxes   the pause image's id 65535 is folded by supervise\n";
    assert_eq!(of("sandboxes", &folded), expected);
    assert_eq!(
        of("containerd", &folded),
        "ok       containerd  v2.3.4 (NRI 0.12.0); under supervise; namespaces can be\n                     adjusted\n"
    );
    // Groups of their own, and no way to say which flags.
    let mut mixed = plain.clone();
    mixed.ids = Ok(Both { uids: node_ids("0 1 2048\n"), gids: node_ids("0 1 100\n") });
    let expected = "warning  ids         uids 0-2047: a pool of 2048; gids 0-99: a pool of 100;\n";
    assert!(of("ids", &mixed).starts_with(expected), "{}", of("ids", &mixed));
    assert!(of("sandboxes", &mixed).contains("\n         uid-nri-plugin plan  # on the host\n"));

    let mut single = with_ids("0 1 1\n");
    let remedy = "         uid-nri-plugin check --host  # on the host: how to get ids\n";
    let found = "problem  ids         0: a pool of 1; nobody but root has a slot\n";
    assert_eq!(of("ids", &single), format!("{found}{remedy}"));
    single.containerd.supervised = true;
    let found = "warning  ids         0: a pool of 1; every other id is folded to root\n";
    assert_eq!(of("ids", &single), format!("{found}{remedy}"));

    // As many pieces as a map may have.
    let holes: String = (0..340).map(|n| format!("{} {} 1\n", n * 2, n * 2)).collect();
    let expected = "\
problem  ids         0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
                     and 324 more: a pool of 1; nobody but root has a slot
         uid-nri-plugin check --host  # on the host: how to get ids
";
    assert_eq!(of("ids", &with_ids(&holes)), expected);

    let mut whole = with_ids("0 1 65536\n");
    whole.plugins.clear();
    whole.containerd.version = Some(Ok("v1.7.35".into()));
    whole.acting = None;
    assert_eq!(of("ids", &whole), "ok       ids         0-65535: a pool of 65536; nothing is needed\n");
    assert_eq!(of("plugin", &whole), "ok       plugin      not needed\n");
    assert_eq!(worst(&findings(&whole)), State::Ok);
}

#[test]
fn nobody_is_missing() {
    let mut facts = with_ids("0 1 2048\n");
    let expected = "\
warning  ids         0-2047: a pool of 2048; 65534 is missing: in pods, Debian's
                     sshd (permanently_set_uid: egid incorrect) and apt (Could
                     not switch group) fail
         uid-nri-plugin plan  # on the host, where the map can be chosen
         # else in the node; containers lose NET_ADMIN and NET_RAW by it:
         mkdir -p /etc/nri/conf.d; echo 'inject = all' \\
           >>/etc/nri/conf.d/00-uid-mapper.conf
         systemctl restart containerd
         # or for one pod: annotation uid-mapper.noderesource.dev: inject=always
";
    assert_eq!(of("ids", &facts), expected);
    facts.drop_in.1 = " inject = needed\n".into();
    let set =
        "\n         sed -i 's/^\\s*inject\\s*=.*/inject = all/' \\\n           /etc/nri/conf.d/00-uid-mapper.conf\n";
    assert!(of("ids", &facts).contains(set), "{}", of("ids", &facts));
    facts.drop_in.1 = "inject = all\n".into();
    let cured = "\
ok       ids         0-2047: a pool of 2048; 65534 is missing, but inject = all
                     gives it to containers
";
    assert_eq!(of("ids", &facts), cured);
    facts.drop_in.1 = "inject = all\nclaim-gids = 7\n".into();
    let text = of("ids", &facts);
    assert!(
        text.starts_with("warning  ")
            && text.contains("\n         # set inject = all, and add 65534 to claim-uids and claim-gids\n"),
        "{text}"
    );
    facts.drop_in.1 = "inject = all\n".into();
    facts.acting = None;
    assert!(of("ids", &facts).starts_with("warning  "));
}

#[test]
fn kubelets() {
    let with = |supervised| one("kubelet", |f| f.kubelet = Some(Kubelet { pid: 140, supervised }));
    assert_eq!(with(true), "ok       kubelet     pid 140; under supervise\n");
    let expected = "\
problem  kubelet     pid 140; not under supervise: pods with an unmapped
                     runAsUser and a service account token do not start
         # in the node's Dockerfile:
         # COPY --from=uid-nri-plugin /uid-nri-plugin /usr/local/bin/
         # ENTRYPOINT [\"uid-nri-plugin\", \"node\", \"--\", ... as it was]
         # or, where the entrypoint has to stay, a drop-in in the node:
         d=/etc/systemd/system/kubelet.service.d; mkdir -p $d
         c=$(systemctl cat kubelet | sed -n 's/^ExecStart=//p' | tail -n 1)
         printf '[Service]\\nExecStart=\\nExecStart=%s supervise -- %s\\n' \\
           /opt/nri/plugins/00-uid-mapper \"$c\" >$d/20-supervise.conf
         systemctl daemon-reload
         systemctl restart kubelet
";
    assert_eq!(with(false), expected);
    let mut kept = good();
    kept.kubelet = Some(Kubelet { pid: 140, supervised: false });
    kept.mounts.push("/etc".into());
    let text = of("kubelet", &kept);
    assert!(
        text.contains("start; /etc is\n                     a volume: a newer image does not change it\n"),
        "{text}"
    );
    let mut whole = with_ids("0 1 65536\n");
    whole.kubelet = Some(Kubelet { pid: 140, supervised: false });
    assert_eq!(of("kubelet", &whole), "ok       kubelet     pid 140\n");
}

#[test]
fn rights_of_root() {
    let expected = "\
problem  root        root lacks CAP_SYS_ADMIN, CAP_SETFCAP
         podman run --cap-add=SYS_ADMIN,SETFCAP IMAGE  # on the host
";
    assert_eq!(one("root", |f| f.capabilities = 0xa804_25fb & !(1 << 31)), expected);
    let failing = |errno: i32, limits| {
        one("root", |f| {
            f.namespace = Err((errno, "cannot make a user namespace".into()));
            f.limits = limits;
        })
    };
    let found = "problem  root        cannot make a user namespace\n";
    let limits = |most, apparmor, clone| Limits { most: Some(most), apparmor, clone };
    for (errno, limits, remedy) in [
        (libc::ENOSPC, limits(0, None, None), "sysctl -w user.max_user_namespaces=65536"),
        (libc::ENOSPC, limits(9000, None, None), "sudo sysctl -w user.max_user_namespaces=65536  # on the host"),
        (libc::EPERM, limits(9000, Some(1), None), "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        (libc::EPERM, limits(9000, None, Some(0)), "sudo sysctl -w kernel.unprivileged_userns_clone=1  # on the host"),
        (libc::EPERM, limits(9000, Some(0), Some(1)), "podman run --privileged IMAGE  # on the host"),
    ] {
        assert_eq!(failing(errno, limits), format!("{found}         {remedy}\n"));
    }
    let expected = "\
warning  root        only 150 user namespaces are allowed, 60 are in use for
                     pods
         sysctl -w user.max_user_namespaces=65536
";
    let few = |f: &mut Facts| {
        f.limits.most = Some(150);
        f.pinned = 60;
    };
    assert_eq!(one("root", few), expected);
    let unlimited = one("root", |f| f.limits.most = Some(2_147_483_647));
    assert_eq!(unlimited, "ok       root        makes and maps user namespaces\n");
    assert!(one("root", |f| f.setgroups_denied = true).starts_with("problem  root        setgroups is denied: "));
    assert!(one("kernel", |f| f.kernel.namespaces = libc::EPERM).starts_with("problem  kernel      6.18.44; "));
}

#[test]
fn versions_of_containerd() {
    let found = |version: &str, nri: &str, supervised| {
        let mut facts = good();
        facts.containerd.version = Some(Ok(version.into()));
        facts.containerd.nri = nri.into();
        facts.containerd.supervised = supervised;
        let mut f = Finding::new("containerd");
        containerd(&mut f, &facts);
        (f.state, f.found, f.remedy.len())
    };
    let late = "v2.2.9 (NRI 0.11.0); does not tell who a container runs as (2.3): only annotated ids work";
    assert_eq!(found("v2.2.9", "0.11.0", false), (State::Warning, late.into(), 1));
    let none = "v2.1.9 (NRI 0.8.0); takes no namespaces from plugins (2.2)";
    assert_eq!(found("v2.1.9", "0.8.0", false), (State::Problem, none.into(), 1));
    let folded = "1.6.20~ds1; under supervise; takes no namespaces from plugins (2.2): ids are folded only";
    assert_eq!(found("1.6.20~ds1", "", true), (State::Warning, folded.into(), 1));
    assert_eq!(found("v2.4.0-beta.1", "", false).0, State::Ok);
    assert_eq!(found("2.3.0+k3s1", "", false).0, State::Ok);
    for odd in ["", "v", "2", "v2.", "master", "99999999999.1", "v\u{1b}[31m.2"] {
        let (state, text, _) = found(odd, "", false);
        assert_eq!(state, State::Problem, "{odd}");
        assert!(!text.contains('\u{1b}'));
    }
    let stopped = one("containerd", |f| f.containerd.pid = None);
    assert!(stopped.starts_with("problem  containerd"), "{stopped}");
    assert!(stopped.contains(" not run: no pod starts\n         systemctl"), "{stopped}");
    let silent = one("containerd", |f| f.containerd.version = Some(Err("it ended with status 1".into())));
    assert!(silent.starts_with("warning  containerd  its version is not known: it ended with status 1\n"), "{silent}");
}

#[test]
fn nri_and_the_plugin() {
    let expected = "\
problem  plugin      /opt/nri/plugins/00-uid-mapper; NRI is disabled
         sed -i '/nri.v1.nri/,/^ *\\[/s/disable *= *true/disable = false/' \\
           /etc/containerd/config.toml
         systemctl restart containerd
";
    let off = |f: &mut Facts| {
        f.containerd.config.disable = Some(true);
        f.nri_socket = false;
        f.acting = None;
    };
    assert_eq!(one("plugin", off), expected);
    let expected = "\
problem  plugin      /opt/nri/plugins/00-uid-mapper; NRI is disabled by default
         printf '[plugins.\"io.containerd.nri.v1.nri\"]\\n  disable = false\\n' \\
           >>/etc/containerd/config.toml
         systemctl restart containerd
";
    let old = |f: &mut Facts| {
        f.containerd.version = Some(Ok("v1.7.35".into()));
        f.nri_socket = false;
        f.acting = None;
    };
    assert_eq!(one("plugin", old), expected);
    let deaf = one("plugin", |f| f.nri_socket = false);
    let expected = "\
problem  plugin      /opt/nri/plugins/00-uid-mapper; NRI's socket is not there;
                     pid 131 acts
         systemctl restart containerd
";
    assert_eq!(deaf, expected);
    let idle = "\
warning  plugin      /opt/nri/plugins/00-uid-mapper; no instance acts
         systemctl restart containerd
         journalctl -t uid-nri-plugin -n 20
";
    assert_eq!(one("plugin", |f| f.acting = None), idle);
    // Only root can see these.
    let unseen = |f: &mut Facts| {
        f.root = false;
        f.nri_socket = false;
        f.acting = None;
    };
    assert_eq!(one("plugin", unseen), "ok       plugin      /opt/nri/plugins/00-uid-mapper\n");
    let closed = |f: &mut Facts| {
        f.nri_socket = false;
        f.containerd.config.no_connections = true;
    };
    assert_eq!(one("plugin", closed), "ok       plugin      /opt/nri/plugins/00-uid-mapper; pid 131 acts\n");
    let locked = one("plugin", |f| f.plugins[0].executable = false);
    assert!(
        locked.contains("is not executable")
            && locked.contains("\n         chmod 755 /opt/nri/plugins/00-uid-mapper\n")
    );
    let expected = "\
warning  plugin      /opt/nri/plugins/00-uid-mapper is of another version than
                     this program, /usr/local/bin/uid-nri-plugin; /opt is a
                     volume: a newer image does not change it; pid 131 acts
         install -m755 /usr/local/bin/uid-nri-plugin \\
           /opt/nri/plugins/00-uid-mapper
         systemctl restart containerd
";
    let old_copy = |f: &mut Facts| {
        f.this = "/usr/local/bin/uid-nri-plugin".into();
        f.plugins[0].origin = Origin::Ours;
        f.mounts.push("/opt".into());
    };
    assert_eq!(one("plugin", old_copy), expected);
    let expected = "\
problem  plugin      not in /opt/nri/plugins; /opt is a volume: a newer image
                     does not change it
         # in the node's Dockerfile:
         # COPY --from=uid-nri-plugin /uid-nri-plugin /usr/local/bin/
         # ENTRYPOINT [\"uid-nri-plugin\", \"node\", \"--\", ... as it was]
         # or, into the volume:
         install -Dm755 /usr/local/bin/uid-nri-plugin \\
           /opt/nri/plugins/00-uid-mapper
         systemctl restart containerd
";
    let trap = |f: &mut Facts| {
        old_copy(f);
        f.plugins.clear();
        f.acting = None;
    };
    assert_eq!(one("plugin", trap), expected);
    let broken = one("plugin", |f| f.drop_in.1 = "inject=all\ninject=all".into());
    let expected = "\
problem  plugin      /opt/nri/plugins/00-uid-mapper;
                     /etc/nri/conf.d/00-uid-mapper.conf: line 2 of the
                     configuration: inject is set twice; pid 131 acts
         cat -n /etc/nri/conf.d/00-uid-mapper.conf
";
    assert_eq!(broken, expected);
    let lines = |f: &mut Facts| f.drop_in.1 = "image postgres claim-uids=70000".into();
    let expected = "\
warning  plugin      /opt/nri/plugins/00-uid-mapper; image lines have no effect:
                     this containerd does not tell a container's image (2.4);
                     pid 131 acts
         # annotate pods instead: uid-mapper.noderesource.dev: claim-uids=...
";
    assert_eq!(one("plugin", lines), expected);
    let told = |f: &mut Facts| {
        lines(f);
        f.containerd.version = Some(Ok("v2.4.2".into()));
    };
    assert_eq!(one("plugin", told), "ok       plugin      /opt/nri/plugins/00-uid-mapper; pid 131 acts\n");
    let external = one("plugin", |f| f.plugins.clear());
    let expected =
        "ok       plugin      none in /opt/nri/plugins, and none needed there; pid 131\n                     acts\n";
    assert_eq!(external, expected);
    let past = one("plugin", |f| f.old_plugin = Some("00-x y".into()));
    assert!(past.contains("NRI 0.1") && past.ends_with("\n         rm '/opt/nri/bin/00-x y'\n"), "{past}");
    let folded = |f: &mut Facts| {
        f.plugins.clear();
        f.acting = None;
        f.containerd.supervised = true;
    };
    assert!(one("plugin", folded).starts_with("warning  plugin      not in /opt/nri/plugins: ids are folded only\n"));
}

#[test]
fn a_root_on_tmpfs() {
    let found =
        |replaced| one("containerd", |f| (f.tmpfs, f.kernel.replaced) = (Some("/var/lib/containerd".into()), replaced));
    let expected = "\
warning  containerd  v2.3.4 (NRI 0.12.0); namespaces can be adjusted; its root,
                     /var/lib/containerd, is a tmpfs, where containers cannot
                     replace folders of an image (EXDEV)
         # keep it on a disk, or boot a kernel of 6.6 or later on the host
";
    assert_eq!(found(libc::EXDEV), expected);
    assert!(found(0).starts_with("ok ") && found(NOT_TRIED).starts_with("ok "));
}

#[test]
fn the_machine_itself_is_no_node() {
    let found = check();
    assert_eq!(
        found.iter().map(Finding::text).collect::<String>(),
        "\
problem  node        this is no node, but the machine itself
         uid-nri-plugin check --host
"
    );
}

#[test]
fn runtimes() {
    let found = |name: &str, version: &str| {
        let runtime = (name.to_owned(), version.to_owned());
        one("runtime", |f| f.runtime = Some(OciRuntime { path: "/bin/r c".into(), version: Ok(runtime) }))
    };
    assert!(found("runc", "1.1.15").starts_with("problem  runtime     runc 1.1.15; takes no map from a namespace"));
    assert!(found("runc", "1.1.15").contains("# take a node image with"));
    assert!(found("runc", "1.2.0-rc.1").starts_with("ok       "));
    assert!(found("crun", "1.4.5").starts_with("warning  "));
    assert!(found("crun", "1.8.1").starts_with("ok       "));
    assert!(found("youki", "0.5.0").starts_with("warning  "));
    assert!(found("runc", "unknown").starts_with("warning  "));
    let silent = |f: &mut Facts| f.runtime.as_mut().unwrap().version = Err("it says \"\"".into());
    assert!(one("runtime", silent).ends_with("\n         /usr/local/sbin/runc --version\n"));
}

#[test]
fn what_is_in_the_way() {
    let plugin = |name: &str, origin| PluginFile { name: name.into(), executable: true, origin };
    let more = |f: &mut Facts| {
        f.plugins.push(plugin("10-topology", Origin::Foreign));
        f.plugins.push(plugin("20-uid-mapper", Origin::This));
        f.plugins.push(PluginFile { executable: false, ..plugin("README", Origin::Foreign) });
    };
    let expected = "\
warning  others      20-uid-mapper, another copy, stands by; 10-topology,
                     another plugin: it may not adjust namespaces or /sys
         rm /opt/nri/plugins/20-uid-mapper
         chmod -x /opt/nri/plugins/10-topology  # if it does
         systemctl restart containerd
";
    assert_eq!(one("others", more), expected);
    let expected = "\
problem  others      \"$(x) \\n\" is no plugin's name: containerd starts none in
                     this folder
         chmod -x '/opt/nri/plugins/$(x) ?'
         systemctl restart containerd
";
    assert_eq!(one("others", |f| f.plugins.push(plugin("$(x) \n", Origin::Foreign))), expected);
    let expected = "\
problem  others      default_validator refuses adjusted namespaces
         sed -i 's/\\(reject_namespace_adjustment *= *\\)true/\\1false/' \\
           /etc/containerd/config.toml
         systemctl restart containerd
";
    assert_eq!(one("others", |f| f.containerd.config.refuses_namespaces = true), expected);
    let listener = one("others", |f| f.kernel.listener = libc::EBUSY);
    assert!(listener.starts_with("warning  others      a seccomp listener is on this node already"), "{listener}");
    let expected = "\
warning  others      kernel.yama.ptrace_scope is 3: supervise folds nothing
         # on the host, then boot it, as 3 stays:
         echo kernel.yama.ptrace_scope=2 >/etc/sysctl.d/99-ptrace.conf
";
    assert_eq!(one("others", |f| f.kernel.no_tracing = true), expected);
}

#[test]
fn cgroups() {
    let expected = "\
warning  cgroup      version 2 without cpu, pids
         # on the host, as an administrator; then log in again
         sudo mkdir -p /etc/systemd/system/user@.service.d
         printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | sudo tee \\
           /etc/systemd/system/user@.service.d/delegate.conf
         sudo systemctl daemon-reload
";
    assert_eq!(one("cgroup", |f| f.controllers = Some("cpuset memory".into())), expected);
    assert!(one("cgroup", |f| f.controllers = Some(String::new())).contains("without cpu, memory, pids"));
}

/// On whatever machine this runs: a line each, whatever it says.
#[test]
fn facts_are_gathered() {
    let found = findings(&Facts::gather());
    assert_eq!(found.len(), 11);
    for f in found {
        assert!(!f.found.is_empty() && (f.state == State::Ok) == f.remedy.is_empty(), "{f:?}");
    }
}
