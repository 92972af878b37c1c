//! The findings about an account and its machine, before there is a node.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::super::plan;
use super::super::source::read_or_empty as read;
use super::super::subid::{self, Subordinate, User};
use super::facts::{Limits, controllers, effective, is_machine};
use super::kernel::{Kernel, errno_text};
use super::node::judge_controllers;
use super::programs::find;
use super::{Finding, shell};
use crate::map::chain::Band;
use crate::map::kind::{Both, Kind};
use crate::pod::presence;
use crate::sys::{pipe, probe};

#[derive(Clone, Debug)]
pub struct Facts {
    /// We are in the machine's own user namespace.
    machine: bool,
    /// Who runs this, as the machine knows him.
    user: Result<User, String>,
    uid: u32,
    /// `$USER`, by which Podman looks ids up.
    login: String,
    /// What /etc/nsswitch.conf has for subid, if that is not the files.
    source: Option<String>,
    subordinate: Both<Subordinate>,
    /// Where ids begin that nobody has.
    free: u64,
    tools: [Tool; 2],
    /// What they say to the planned map; None: they cannot be asked.
    mapped: Option<Result<(), String>>,
    limits: Limits,
    kernel: Kernel,
    supervised: bool,
    cgroup2: bool,
    /// The controllers that systemd has delegated to the user; None: there is no user manager.
    controllers: Option<String>,
    /// `$XDG_RUNTIME_DIR`, and whether files can be made there.
    runtime_dir: (String, bool),
    /// The user's processes go on when he logs out.
    lingers: bool,
    /// Modules that are neither loaded nor built in.
    missing: Vec<&'static str>,
    /// `net.ipv4.conf.default.rp_filter` is 1.
    strict: bool,
    fuse: bool,
    /// Whether they answer, and are rootless; None: not asked.
    engines: Vec<(&'static str, Option<Result<bool, String>>)>,
    /// How programs are installed here, and as part of what newuidmap is.
    packages: (&'static str, &'static str),
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
/// As whom the kernel shows an owner whom a user namespace lacks.
const NOBODY: u32 = 65534;
const MAX_FILE: u64 = 16 << 20;
/// What Kubernetes' networks need.
const MODULES: [&str; 6] = ["br_netfilter", "ip_tables", "ip6_tables", "iptable_nat", "ip6table_nat", "vxlan"];
/// Container engines, with what shows that one is rootless.
const ENGINES: [(&str, &str, &str); 3] = [
    ("podman", "{{.Host.Security.Rootless}}", "true"),
    ("docker", "{{.SecurityOptions}}", "name=rootless"),
    ("nerdctl", "{{.SecurityOptions}}", "name=rootless"),
];
/// Distributions by ID or ID_LIKE of os-release(5), how they install, and the package of newuidmap and getsubids.
const PACKAGES: [(&str, &str, &str); 5] = [
    ("debian", "sudo apt-get install", "uidmap"),
    ("fedora", "sudo dnf install", "shadow-utils"),
    ("suse", "sudo zypper install", "shadow"),
    ("arch", "sudo pacman -S", "shadow"),
    ("alpine", "sudo apk add", "shadow-uidmap"),
];

impl Facts {
    pub fn gather() -> Facts {
        let (uid, gid) = (effective("Uid:").unwrap_or(0), effective("Gid:").unwrap_or(0));
        let env = |name| std::env::var(name).unwrap_or_default();
        let user = subid::user(&uid.to_string());
        let of = |kind| user.as_ref().map_or_else(|_| Subordinate::default(), |u| Subordinate::gather(kind, u));
        let subordinate = Both { uids: of(Kind::Uid), gids: of(Kind::Gid) };
        let (machine, tools) = (is_machine(), ["newuidmap", "newgidmap"]);
        let tools = tools.map(|name| Tool::gather(name, !machine));
        let slice = format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers");
        let root = controllers();
        let delegated =
            if uid == 0 { root.clone() } else { fs::exists(&slice).is_ok_and(|is| is).then(|| read(&slice, 4096)) };
        let dir = env("XDG_RUNTIME_DIR");
        // A file without a name, which is gone at once.
        let trial = File::options().write(true).custom_flags(libc::O_TMPFILE).open(&dir);
        let linger = user.as_ref().map_or(String::new(), |(name, ..)| format!("/var/lib/systemd/linger/{name}"));
        let kernel = Kernel::gather(Some((uid, gid)));
        let mapped = user.as_ref().ok().filter(|_| uid != 0).and_then(|u| try_map(u, &subordinate, &tools));
        let engines = ENGINES.iter().filter(|(name, ..)| find(name).is_some());
        // Else Podman's first process would keep a map of one id, also when there are more.
        let asked = mapped == Some(Ok(()));
        Facts {
            source: subid::source(&read("/etc/nsswitch.conf", MAX_FILE)),
            free: free(&(read("/etc/subuid", MAX_FILE) + "\n" + &read("/etc/subgid", MAX_FILE)), [uid, gid]),
            mapped,
            limits: Limits::gather(),
            supervised: presence::we_are_supervised(),
            cgroup2: root.is_some(),
            controllers: delegated.map(|list| list.trim().to_owned()),
            runtime_dir: (dir, trial.is_ok()),
            lingers: uid == 0
                || !fs::exists("/run/systemd/system").unwrap_or(false)
                || fs::exists(linger).unwrap_or(false),
            missing: missing(&kernel.release),
            strict: read("/proc/sys/net/ipv4/conf/default/rp_filter", 16) == "1\n",
            fuse: File::options().read(true).write(true).open("/dev/fuse").is_ok(),
            engines: engines.map(|e| (e.0, asked.then(|| ask(e)))).collect(),
            packages: packages(&read("/etc/os-release", MAX_FILE)),
            login: env("USER"),
            machine,
            user,
            uid,
            subordinate,
            tools,
            kernel,
        }
    }
}

impl Facts {
    fn enable_linger(&self) -> String {
        format!("sudo loginctl enable-linger {}", shell(self.user.as_ref().map_or("USER", |(name, ..)| name)))
    }
}

impl Tool {
    fn gather(name: &'static str, in_node: bool) -> Tool {
        let path = find(name);
        // In a node, the machine's root may read as nobody.
        let roots = |uid| uid == 0 || in_node && uid == NOBODY;
        let set_uid = |path: &str| fs::metadata(path).is_ok_and(|m| m.mode() & 0o4000 != 0 && roots(m.uid()));
        let privileged = path.as_deref().is_some_and(|path| set_uid(path) || probe::has_file_capabilities(path));
        Tool { name, path, privileged }
    }
}

/// Makes a user namespace with the map that plan gives this user; None: there is no such map, or nobody to ask.
fn try_map(user: &User, ids: &Both<Subordinate>, tools: &[Tool; 2]) -> Option<Result<(), String>> {
    let mut commands = Vec::new();
    for (kind, tool) in Kind::BOTH.into_iter().zip(tools) {
        let granted = ids.of(kind).clone().granted(&user.0, subid::own(user, kind));
        let lines = plan::unasked(&granted.ok()?).ok()?;
        commands.push((tool.path.as_deref().filter(|_| tool.privileged)?, lines));
    }
    let map = |pid: u32, (path, lines): &(&str, Vec<Band>)| {
        let words = |all, b: &Band| format!("{all} {} {} {}", b.firsts[0], b.firsts[2], b.count);
        let words = lines.iter().fold(pid.to_string(), words);
        match pipe::run(path, &words.split(' ').collect::<Vec<_>>(), true) {
            Ok((_, 0)) => Ok(()),
            Ok((said, code)) => Err(format!("{} (status {code})", said.trim())),
            Err(e) => Err(format!("{path}: {e}")),
        }
    };
    probe::beside_namespace(|pid| commands.iter().try_for_each(|command| map(pid, command))).ok()
}

/// The first place for the ids of a node that overlaps nobody's, these two themselves among them.
fn free(files: &str, own: [u32; 2]) -> u64 {
    let mut taken = own.map(|id| (id.into(), 1)).to_vec();
    taken.extend(subid::entries(files).filter_map(|(.., pair)| pair.ok()));
    let mut place = 100_000;
    while let Some((first, count)) = taken.iter().find(|(f, c)| *f < place + WANTED && f.saturating_add(*c) > place) {
        place = first.saturating_add(*count);
    }
    place
}

/// Which of the modules are neither loaded nor built in, as far as it can be known.
fn missing(release: &str) -> Vec<&'static str> {
    let built_in = read(&format!("/lib/modules/{release}/modules.builtin"), MAX_FILE);
    let is_there = |name: &&str| {
        fs::exists(format!("/sys/module/{name}")).unwrap_or(false) || built_in.contains(&format!("/{name}.ko"))
    };
    let has_modules = fs::exists("/proc/modules").unwrap_or(false);
    MODULES.into_iter().filter(|name| has_modules && !is_there(name)).collect()
}

/// Whether an engine is rootless; an error is the last that it said.
fn ask((name, format, rootless): &(&str, &str, &str)) -> Result<bool, String> {
    match pipe::run(name, &["info", "--format", format], true) {
        Ok((said, 0)) => Ok(said.contains(rootless)),
        Ok((said, _)) => Err(said.trim().lines().last().unwrap_or_default().to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn packages(os_release: &str) -> (&'static str, &'static str) {
    let ids = os_release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    let words: Vec<&str> = ids.flat_map(|ids| ids.trim_matches('"').split(' ')).collect();
    let known = PACKAGES.iter().find(|(id, ..)| words.contains(id));
    known.map_or(("# install", "newuidmap and newgidmap"), |(_, install, uidmap)| (install, uidmap))
}

/// Gathers and judges.
pub fn check() -> Vec<Finding> {
    findings(&Facts::gather())
}

fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all =
        judge!(facts: place, ids, newuidmap, namespaces, kernel, others, cgroup, session, network, fuse, engine);
    all.retain(|f: &Finding| !f.found.is_empty());
    all
}

/// Says something only where this is not the machine.
fn place(f: &mut Finding, facts: &Facts) {
    if !facts.machine {
        f.warn(
            "this is inside a user namespace, perhaps a node: what follows is about a node to be started in here",
            "uid-nri-plugin check --host  # on the host\nuid-nri-plugin check  # in a node",
        );
    }
}

fn ids(f: &mut Finding, facts: &Facts) {
    if facts.uid == 0 {
        let remedy = "su - USER -c 'uid-nri-plugin check --host'";
        f.warn("this is root: ask as the user who is to start the node", remedy);
    }
    let name = match &facts.user {
        Ok((name, ..)) => name,
        Err(why) => return f.problem(why, &format!("getent passwd {}", facts.uid)),
    };
    let files = Kind::BOTH.map(|kind| (format!("/etc/sub{kind}"), facts.subordinate.of(kind)));
    for (path, found) in &files {
        let edit = format!("sudoedit {path}");
        for line in &found.ignored {
            f.warn(&format!("{line}: newuidmap passes over it"), &edit);
        }
        match (&found.refused, &facts.source) {
            (Some(why), Some(_)) => f.warn(why, &format!("getsubids {}", shell(name))),
            (Some(why), None) => f.problem(&format!("{why}: newuidmap refuses it"), &edit),
            (None, _) => {}
        }
    }
    if files.iter().any(|(_, found)| found.refused.is_some()) {
        return;
    }
    if !["", name].contains(&facts.login.as_str()) {
        let text = format!("USER is {}, and Podman takes that one's ids", facts.login);
        f.warn(&text, &format!("export USER={}", shell(name)));
    }
    let (uids, gids) = (facts.subordinate.uids.count(), facts.subordinate.gids.count());
    let text = format!("{uids} subordinate uids and {gids} gids for {name}");
    let line = shell(&format!("{name}:{}:{WANTED}", facts.free));
    let add = |(path, _): &(String, _)| match &facts.source {
        Some(source) => format!("# have {source} give more of them (nsswitch.conf)\n"),
        None => format!("echo {line} | sudo tee -a {path}\n"),
    };
    let lines: String = files.iter().filter(|(_, of)| of.count() < FEW && of.ignored.is_empty()).map(add).collect();
    match uids.min(gids) {
        _ if facts.uid == 0 => f.note(&text),
        0 => f.problem(&text, &lines),
        n if n < FEW => f.warn(&format!("{text}: few"), &lines),
        _ => f.note(&text),
    }
}

fn newuidmap(f: &mut Finding, facts: &Facts) {
    let (install, package) = facts.packages;
    for tool in &facts.tools {
        match &tool.path {
            None => f.problem(&format!("{} is not installed", tool.name), &format!("{install} {package}")),
            Some(path) if !tool.privileged => {
                let text = format!("{path} is neither set-uid root nor has capabilities");
                f.problem(&text, &format!("sudo chmod u+s {}", shell(path)));
            }
            Some(path) => f.note(path),
        }
    }
    match &facts.mapped {
        Some(Ok(())) => f.note("they make the planned map"),
        Some(Err(said)) => f.problem(
            said,
            "uid-nri-plugin plan  # the map that was tried\nid; findmnt -T /usr/bin  # its group, and nosuid",
        ),
        None => {}
    }
}

fn namespaces(f: &mut Finding, facts: &Facts) {
    match (facts.kernel.namespaces, facts.limits.most) {
        (0, Some(most)) if most < FEW => {
            let remedy = "sudo sysctl -w user.max_user_namespaces=65536";
            f.warn(&format!("only {most} user namespaces are allowed"), remedy);
        }
        (0, Some(most)) => f.note(&format!("this user makes user namespaces (limit {most})")),
        (0, None) => f.note("this user makes user namespaces"),
        (e, _) => {
            let text = format!("this user makes no user namespaces: {}", errno_text(e));
            f.problem(&text, facts.limits.remedy());
        }
    }
}

fn kernel(f: &mut Finding, facts: &Facts) {
    facts.kernel.judge(f);
}

fn others(f: &mut Finding, facts: &Facts) {
    facts.kernel.judge_listener(f, facts.supervised);
    f.note_if_empty("no seccomp listener in the way");
}

fn cgroup(f: &mut Finding, facts: &Facts) {
    match (&facts.controllers, facts.cgroup2) {
        (_, false) => {
            let args = "systemd.unified_cgroup_hierarchy=1";
            let remedy = match facts.packages.0 {
                "sudo dnf install" => format!("sudo grubby --update-kernel=ALL --args={args}"),
                _ => format!("# boot with {args} (kernel's command line)"),
            };
            f.problem("not version 2", &remedy);
        }
        (None, true) => f.warn("no systemd user manager, which delegates controllers", &facts.enable_linger()),
        (Some(list), true) => judge_controllers(f, list),
    }
}

fn session(f: &mut Finding, facts: &Facts) {
    let (dir, is_writable) = &facts.runtime_dir;
    if *is_writable {
        f.note(&format!("XDG_RUNTIME_DIR {dir}"));
    } else {
        let what = if dir.is_empty() { "not set" } else { "nothing that can be written to" };
        let remedy = format!("export XDG_RUNTIME_DIR=/run/user/{}  # logging in makes it, su not", facts.uid);
        f.warn(&format!("XDG_RUNTIME_DIR is {what}"), &remedy);
    }
    if !facts.lingers {
        f.warn("no linger: the node ends when you log out", &facts.enable_linger());
    }
}

fn network(f: &mut Finding, facts: &Facts) {
    if !facts.missing.is_empty() {
        let list = facts.missing.join(" ");
        let keep = format!("printf '%s\\n' {list} | sudo tee /etc/modules-load.d/usernetes.conf");
        f.warn(&format!("not loaded: {list}"), &format!("sudo modprobe -a {list}\n{keep}"));
    }
    if facts.strict {
        let keep = "echo net.ipv4.conf.default.rp_filter=2 | sudo tee /etc/sysctl.d/99-usernetes.conf";
        let text = "net.ipv4.conf.default.rp_filter is 1: packets between nodes are dropped";
        f.warn(text, &format!("{keep}\nsudo sysctl --system"));
    }
    f.note_if_empty("modules and rp_filter are as Kubernetes' networks need them");
}

fn fuse(f: &mut Finding, facts: &Facts) {
    match (facts.fuse, facts.kernel.overlay) {
        (true, _) => f.note("/dev/fuse"),
        (false, 0) => f.note("no /dev/fuse, and none needed: overlay works"),
        (false, _) => f.warn("no /dev/fuse for fuse-overlayfs", "sudo modprobe fuse && sudo chmod 666 /dev/fuse"),
    }
}

fn engine(f: &mut Finding, facts: &Facts) {
    let works = facts.engines.iter().any(|(_, is)| matches!(is, Some(Ok(true)) | None));
    for (name, rootless) in &facts.engines {
        f.note(&match rootless {
            Some(Ok(true)) => format!("{name}, rootless"),
            Some(Ok(false)) => format!("{name}, not rootless"),
            Some(Err(why)) if !works => format!("{name} does not answer: {why}"),
            Some(Err(_)) => format!("{name} does not answer"),
            None => (*name).to_owned(),
        });
    }
    match facts.engines[..] {
        [] => f.problem("no podman, docker or nerdctl to run the node", &format!("{} podman", facts.packages.0)),
        [(name, _), ..] if !works => f.problem("no rootless engine answers", &format!("{name} info")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
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
        let dead = |f: &mut Facts| {
            f.engines = vec![("docker", Some(Err("Cannot connect".into()))), ("podman", Some(Ok(false)))]
        };
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
}
