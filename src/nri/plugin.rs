//! What the plugin does at each event, apart from how the event came.

use std::collections::HashSet;
use std::fmt::{self, Display, Write};
use std::fs;
use std::path::PathBuf;

use super::adjust::{self, Assignments, Foreign};
use super::proto::nri::{
    ConfigureRequest, CreateContainerRequest, CreateContainerResponse, LinuxNamespace, PodSandbox, RunningContainer,
    SynchronizeRequest,
};
use super::ttrpc::{Code, Failure};
use crate::journal::{Journal, Level, Subject};
use crate::map::assign::{Assignment, Collision, Wants, assign};
use crate::map::pool::{NodeId, NodeIds};
use crate::pod::node::Node;
use crate::pod::podfs::{self, PodFs};
use crate::pod::policy::{self, Config, Decision, Runtime, Wanted};
use crate::pod::presence;
use crate::pod::rundir::{self, RunDir};
use crate::pod::userns::{self, Maps};
use crate::sys::ns::Home;

/// Bit n-1 subscribes to event n of NRI's api.proto.
mod event {
    pub const RUN_POD_SANDBOX: i32 = 1 << 0;
    pub const REMOVE_POD_SANDBOX: i32 = 1 << 2;
    pub const CREATE_CONTAINER: i32 = 1 << 3;
}

/// More warnings of one kind than this about one container are only counted.
const MAX_WARNINGS: usize = 16;
/// A displaced id below this is worth a warning: images have such users.
const NOTABLE: u32 = 1000;

/// The plugin.
pub struct Plugin {
    /// The log.
    pub journal: Journal,
    config_files: ConfigFiles,
    log_level: Option<Level>,
    run: Option<RunDir>,
    standby: bool,
    state: Option<State>,
    /// Pods named so far by a Synchronize that comes in parts.
    known: HashSet<String>,
    ping_failed: bool,
    /// It has been said that this runtime does not tell of images.
    untold: bool,
    /// The runtime's process, where it can be seen.
    runtime: Option<u32>,
}

/// Where the configuration is, apart from what the runtime hands over.
pub enum ConfigFiles {
    /// Nowhere.
    None,
    /// In this file, which must be there, and counts instead of what is handed over.
    This(PathBuf),
    /// In the first of these that is there, if any: the runtime hands its drop-in only to plugins that it launches.
    First(Vec<PathBuf>),
}

impl ConfigFiles {
    fn find(&self) -> Option<&PathBuf> {
        match self {
            ConfigFiles::None => None,
            ConfigFiles::This(path) => Some(path),
            ConfigFiles::First(paths) => paths.iter().find(|path| path.exists()),
        }
    }
}

/// What a Configure settles.
struct State {
    config: Config,
    node: Node,
    runtime: Runtime,
    home: Home,
}

impl Plugin {
    /// A plugin that has not seen its node yet. `log_level` goes before the configuration's.
    pub fn new(config_files: ConfigFiles, log_level: Option<Level>) -> Plugin {
        Plugin {
            journal: Journal::new(log_level.unwrap_or(Level::Info)),
            config_files,
            log_level,
            run: None,
            standby: false,
            state: None,
            known: HashSet::new(),
            ping_failed: false,
            untold: false,
            runtime: None,
        }
    }

    /// A connection is there, and this is at its other end.
    pub fn connected(&mut self, runtime: Option<u32>) {
        self.runtime = runtime;
    }

    /// Waits until no other instance acts. Errors of the node show here, before a runtime is asked for.
    pub fn wait_for_turn(&mut self) -> Result<(), String> {
        Node::read()?;
        let run = open_once(&mut self.run)?;
        if !run.try_lock().map_err(text)? {
            let who = other(run);
            self.journal.say(Level::Info, format!("{who} acts; this one stands by"));
            run.wait_lock().map_err(text)?;
            self.journal.say(Level::Info, format!("{who} has ended; this one acts"));
        }
        Ok(())
    }

    /// Takes the configuration and what the runtime says of itself. Returns the events to subscribe to.
    pub fn configure(&mut self, request: &ConfigureRequest) -> Result<i32, Failure> {
        self.try_configure(request).map_err(|why| Failure::new(Code::InvalidArgument, format!("uid-mapper: {why}")))
    }

    fn try_configure(&mut self, request: &ConfigureRequest) -> Result<i32, String> {
        // A Synchronize that the last connection did not finish.
        self.known.clear();
        self.untold = false;
        let config = match self.config_files.find() {
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                Config::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?
            }
            None => Config::parse(&request.config)?,
        };
        self.journal.set_level(self.log_level.or(config.log_level).unwrap_or(Level::Info));
        let node = Node::read()?;
        let home = Home::open().map_err(|e| format!("cannot open the node's namespaces: {e}"))?;
        let runtime = Runtime::new(&request.runtime_name, &request.runtime_version, &request.nri_version);
        let run = open_once(&mut self.run)?;
        self.standby = !run.try_lock().map_err(text)?;

        self.introduce(&node, &runtime, &config);
        let events = match node.needs_nothing() {
            // Nothing is made here, but an earlier instance may have left something.
            true => event::REMOVE_POD_SANDBOX,
            false if config.set_ping => event::CREATE_CONTAINER | event::REMOVE_POD_SANDBOX | event::RUN_POD_SANDBOX,
            false => event::CREATE_CONTAINER | event::REMOVE_POD_SANDBOX,
        };
        self.state = Some(State { config, node, runtime, home });
        Ok(events)
    }

    /// The line at start, and what the user should know of this node and runtime.
    fn introduce(&self, node: &Node, runtime: &Runtime, config: &Config) {
        let journal = &self.journal;
        let (uids, gids) = (&node.ids.uids, &node.ids.gids);
        let gid_text = match uids == gids {
            true => String::new(),
            false => format!("; its gids {}, pool {}", gids.ids(), gids.pool()),
        };
        journal.say(
            Level::Info,
            format!(
                "version {}; runtime {}; inject={}; pool {}; {} of the ids 0-65535 share a slot; node ids {}{gid_text}",
                env!("CARGO_PKG_VERSION"),
                runtime.name,
                format!("{:?}", config.inject).to_lowercase(),
                uids.pool(),
                uids.sharing_a_slot(),
                uids.ids(),
            ),
        );
        if node.needs_nothing() {
            journal.say(Level::Info, "the node maps all ids 0-65535: nothing to do");
        } else if !runtime.takes_namespaces {
            let why = "cannot put containers into user namespaces through NRI; containers that ask for ids which \
                       the node lacks are refused; containerd 2.2 or later is needed";
            journal.say(Level::Warning, format!("{} {why}", runtime.name));
        } else if !runtime.tells_user {
            let why = "does not tell plugins who a container runs as: only annotated ids and inject=all have an \
                       effect; containerd 2.3 or later tells";
            journal.say(Level::Warning, format!("{} {why}", runtime.name));
        }
        if let (true, Some(run)) = (self.standby, &self.run) {
            journal.say(Level::Info, format!("{} acts; this one stands by", other(run)));
        }
    }

    /// Learns which pods there are, and removes what was made for others.
    pub fn synchronize(&mut self, request: &SynchronizeRequest) {
        self.known.extend(request.pods.iter().map(|pod| pod.id.clone()));
        for container in &request.containers {
            self.tell_if_missed(request, container);
        }
        if request.more {
            return;
        }
        let known = std::mem::take(&mut self.known);
        if let (true, Some(run)) = (self.acts_or_says_why(), &self.run) {
            let (removed, failure) = run.sweep(&known);
            if removed > 0 {
                self.journal.say(Level::Info, format!("removed what was left of {removed} pods that are gone"));
            }
            if let Some(e) = failure {
                self.journal.say(Level::Error, e);
            }
        }
    }

    /// Tells of a container that this plugin would have given a user namespace, and that has none.
    fn tell_if_missed(&self, request: &SynchronizeRequest, container: &RunningContainer) {
        let (Some(State { node, home, .. }), Some(user)) = (&self.state, container.user.as_ref()) else { return };
        let find = |kind| container.linux.namespaces.iter().find(|ns: &&LinuxNamespace| ns.type_ == kind);
        let lacks = |ids: &NodeIds, id: &&u32| !ids.contains(**id);
        let uid = Some(&user.uid).filter(|id| lacks(&node.ids.uids, id));
        let gid = std::iter::once(&user.gid).chain(&user.additional_gids).find(|id| lacks(&node.ids.gids, id));
        if find("user").is_some() || find("network").is_none_or(|net| home.is_our_net(&net.path)) {
            return;
        }
        // It may have been told of in an earlier part.
        let pod = request.pods.iter().find(|pod| pod.id == container.pod_sandbox_id);
        let (pod, namespace) = pod.map_or((&*container.pod_sandbox_id, ""), |pod| (&pod.name, &pod.namespace));
        let who = Subject { pod, namespace, container: &container.name };
        for (kind, id) in [("uid", uid), ("gid", gid)] {
            if let Some(id) = id {
                let why = "was created while no plugin acted, or is privileged";
                self.journal.about(Level::Warning, &who, format_args!("{why}: its {kind} {id} is folded"));
            }
        }
    }

    /// A sandbox has started.
    pub fn pod_started(&mut self, pod: &PodSandbox) {
        if self.acts_or_says_why() {
            self.allow_ping(pod, network_of(&pod.linux.namespaces));
        }
    }

    /// A sandbox is gone.
    pub fn pod_removed(&mut self, pod: &PodSandbox) {
        if let (true, Some(run)) = (self.acts_or_says_why(), &self.run)
            && let Err(e) = run.remove_pod(&pod.id)
        {
            self.journal.about(Level::Error, &subject(pod, ""), e);
        }
    }

    /// A container is about to be created: what to change in it.
    pub fn create(&mut self, request: &CreateContainerRequest) -> Result<CreateContainerResponse, Failure> {
        let State { config, node, runtime, home } = self.state.as_ref().ok_or_else(not_configured)?;
        if node.needs_nothing() {
            return Ok(CreateContainerResponse::default());
        }
        let who = subject(&request.pod, &request.container.name);
        let candidate = adjust::candidate(&request.pod, &request.container);
        if !config.images.is_empty() {
            if request.container.image.is_some() {
                // Of several names of an image, the one that its line must match.
                self.journal.about(Level::Debug, &who, format_args!("its image is {:?}", candidate.image.name));
            } else if !std::mem::replace(&mut self.untold, true) {
                let why = "does not tell plugins a container's image: image lines have no effect; containerd 2.4 or \
                           later tells";
                self.journal.say(Level::Warning, format!("{} {why}", runtime.name));
            }
        }
        let mut decision = policy::decide(config, &node.ids.uids, &node.ids.gids, runtime, &candidate);
        // containerd gives every container its sandbox's network namespace; only the file behind the path tells whether
        // that is the node's. Asked last, since it is the one question that takes a system call.
        let host_network = || adjust::network(&request.container).is_none_or(|path| home.is_our_net(path));
        if !matches!(decision, Decision::Leave(_)) && host_network() {
            decision = Decision::Leave("it uses the node's network");
        }
        let wanted = match decision {
            Decision::Leave(why) => {
                self.journal.about(Level::Debug, &who, format_args!("left alone: {why}"));
                return Ok(CreateContainerResponse::default());
            }
            Decision::Refuse(why) => Err(why),
            Decision::Inject(wanted) => Ok(wanted),
        };
        if !self.acts().map_err(internal)? {
            return Ok(CreateContainerResponse::default());
        }
        let result = wanted.map_err(refusal).and_then(|wanted| self.inject(request, &wanted));
        if let Err(failure) = &result {
            self.journal.about(Level::Error, &who, format_args!("refused: {}", failure.message));
        }
        result
    }

    /// Makes what the container needs, and says so.
    fn inject(
        &mut self,
        request: &CreateContainerRequest,
        wanted: &Wanted,
    ) -> Result<CreateContainerResponse, Failure> {
        let State { config, node, home, .. } = self.state.as_ref().ok_or_else(not_configured)?;
        let user = wanted.user.as_ref();
        let mount_uids = adjust::mount_ids(&request.container, "uid=");
        let mut gids = adjust::mount_ids(&request.container, "gid=");
        gids.extend(user.into_iter().flat_map(|u| &u.additional_gids));
        let uid = Wants {
            primary: user.map(|u| u.uid),
            others: &mount_uids,
            optional: &[&wanted.claims.uids, &config.claim_uids],
        };
        let gid =
            Wants { primary: user.map(|u| u.gid), others: &gids, optional: &[&wanted.claims.gids, &config.claim_gids] };
        let uid = assign(&node.ids.uids, &uid).map_err(|e| (e, format!("user ids: {e}")));
        let gid = assign(&node.ids.gids, &gid).map_err(|e| (e, format!("group ids: {e}")));
        let (uid, gid) = match uid.and_then(|uid| Ok((uid, gid?))) {
            Ok(both) => both,
            Err((e, why)) if e.is_want_of_room() && !wanted.refuse_collisions && self.folds() => {
                let who = subject(&request.pod, &request.container.name);
                self.journal.about(Level::Warning, &who, format_args!("left alone, and folded by supervise: {why}"));
                return Ok(CreateContainerResponse::default());
            }
            Err((_, why)) => return Err(refusal(why)),
        };
        let collision = uid.collisions.first().map(|c| ("uid", c)).or(gid.collisions.first().map(|c| ("gid", c)));
        if let (true, Some((kind, c))) = (wanted.refuse_collisions, collision) {
            return Err(refusal(format!("collisions=refuse, and {}", adjust::describe(kind, c))));
        }

        let run = self.run.as_ref().ok_or_else(not_configured)?;
        let pod = run.pod(&request.pod.id).map_err(internal)?;
        let maps = Maps { uid: uid.map.clone(), gid: gid.map.clone() };
        let pinned = userns::pinned(&pod, &maps).map_err(internal)?;
        let mut binds: Vec<(Foreign, String)> = Vec::new();
        let mut new_network = None;
        for foreign in adjust::foreign_mounts(&request.container) {
            let instance = podfs::instance(&pod, home, foreign.fs, foreign.namespace).map_err(internal)?;
            if instance.made && foreign.fs == PodFs::Sysfs {
                new_network = foreign.namespace;
            }
            binds.push((foreign, instance.path));
        }
        // For a pod that is older than this plugin; others had it when they started.
        self.allow_ping(&request.pod, new_network);

        let who = subject(&request.pod, &request.container.name);
        let made = if pinned.reused { "joins" } else { "gets" };
        let message =
            format!("{made} user namespace {} with uids {} and gids {}", pinned.path, slots(&uid), slots(&gid));
        self.journal.about(Level::Info, &who, message);
        self.warn(&who, "uid", &uid);
        self.warn(&who, "gid", &gid);

        let adjust = adjust::adjustment(pinned.path, &binds, &Assignments { uid: &uid, gid: &gid });
        Ok(CreateContainerResponse { adjust: Some(adjust).into(), ..Default::default() })
    }

    /// Warns of every collision, and of displaced ids that images are likely to use.
    fn warn(&self, who: &Subject, kind: &str, assignment: &Assignment) {
        // Not formatted before it is known to be written: a pod can have many thousands.
        let collisions = assignment.collisions.iter().map(|c| Warning::Collision(kind, c));
        let low = assignment.placed.iter().filter(|(_, slot)| slot.0 < NOTABLE);
        let displaced = low.map(|(id, slot)| Warning::Displaced(kind, *id, *slot));
        let mut all = collisions.chain(displaced);
        for message in all.by_ref().take(MAX_WARNINGS) {
            self.journal.about(Level::Warning, who, message);
        }
        match all.count() {
            0 => {}
            more => self.journal.about(Level::Warning, who, format_args!("and {more} more such {kind}s")),
        }
    }

    fn allow_ping(&mut self, pod: &PodSandbox, network: Option<&str>) {
        let (Some(State { config, node, home, .. }), Some(path)) = (&self.state, network) else { return };
        if !config.set_ping || node.needs_nothing() {
            return;
        }
        match podfs::allow_ping(home, path, &node.gid_map) {
            Ok(true) => self.journal.about(Level::Debug, &subject(pod, ""), "ping_group_range set to the node's gids"),
            Ok(false) => {}
            // The same reason will hold for every pod: once is enough.
            Err(e) if !self.ping_failed => {
                self.ping_failed = true;
                self.journal.about(Level::Warning, &subject(pod, ""), format_args!("ping will need root: {e}"));
            }
            Err(_) => {}
        }
    }

    /// Whether a container that the runtime starts is folded: the runtime is below supervise, or this process is, which a
    /// runtime has launched.
    fn folds(&self) -> bool {
        self.runtime.is_some_and(presence::is_supervised) || presence::is_folded()
    }

    /// Whether this is the instance that acts; a standby tries to become it.
    fn acts(&mut self) -> Result<bool, String> {
        let run = open_once(&mut self.run)?;
        let acts = run.try_lock().map_err(text)?;
        if acts && self.standby {
            self.standby = false;
            self.journal.say(Level::Info, "the other instance has ended; this one acts");
        }
        Ok(acts)
    }

    /// The same where there is nobody to answer with an error.
    fn acts_or_says_why(&mut self) -> bool {
        self.acts().unwrap_or_else(|why| {
            self.journal.say(Level::Error, why);
            false
        })
    }
}

/// What the user of a container should know of its map.
enum Warning<'a> {
    Collision(&'a str, &'a Collision),
    Displaced(&'a str, u32, NodeId),
}

impl Display for Warning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Collision(kind, c) => f.write_str(&adjust::describe(kind, c)),
            Warning::Displaced(kind, id, slot) => {
                write!(f, "{kind} {slot} cannot be used: {kind} {id} has its slot")
            }
        }
    }
}

fn open_once(run: &mut Option<RunDir>) -> Result<&mut RunDir, String> {
    let open = match run.take().filter(RunDir::is_there) {
        Some(open) => open,
        None => RunDir::open(rundir::PATH).map_err(text)?,
    };
    Ok(run.insert(open))
}

fn other(run: &RunDir) -> String {
    run.holder().map_or("another instance".to_owned(), |pid| format!("another instance, pid {pid},"))
}

fn subject<'a>(pod: &'a PodSandbox, container: &'a str) -> Subject<'a> {
    Subject { pod: &pod.name, namespace: &pod.namespace, container }
}

/// The path of a pod's own network namespace.
fn network_of(namespaces: &[LinuxNamespace]) -> Option<&str> {
    namespaces.iter().find(|ns| ns.type_ == "network" && !ns.path.is_empty()).map(|ns| ns.path.as_str())
}

/// The first few wanted ids and their slots: `10001 on 1809`.
fn slots(assignment: &Assignment) -> String {
    const SHOWN: usize = 8;
    let placed = &assignment.placed;
    let mut out = if placed.is_empty() { "as the node's".to_owned() } else { String::new() };
    for (i, (id, slot)) in placed.iter().take(SHOWN).enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(out, "{comma}{id} on {slot}");
    }
    if placed.len() > SHOWN {
        let _ = write!(out, " and {} more", placed.len() - SHOWN);
    }
    out
}

fn text(e: impl Display) -> String {
    e.to_string()
}

fn refusal(why: String) -> Failure {
    Failure::new(Code::FailedPrecondition, format!("uid-mapper: {why}"))
}

fn internal(e: impl Display) -> Failure {
    Failure::new(Code::Internal, format!("uid-mapper: {e}"))
}

fn not_configured() -> Failure {
    Failure::new(Code::FailedPrecondition, "uid-mapper: not configured yet")
}
