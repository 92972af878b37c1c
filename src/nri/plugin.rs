//! What the plugin does at each event, apart from how the event came.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;

use super::adjust::{self, namespace};
use super::proto::nri::{
    ConfigureRequest, CreateContainerRequest, CreateContainerResponse, PodSandbox, RunningContainer, SynchronizeRequest,
};
use super::say;
use super::ttrpc::{Code, Status, failure};
use crate::journal::{Journal, Level, Subject};
use crate::map::assign::Assignment;
use crate::map::kind::{Both, Kind};
use crate::map::pool::NodeIds;
use crate::pod::config::PluginConfig;
use crate::pod::decision::{NoNamespace, decide};
use crate::pod::features::RuntimeFeatures;
use crate::pod::node::{self, needs_nothing};
use crate::pod::podfs::{self, PodFs};
use crate::pod::presence;
use crate::pod::rundir::{self, RunDir};
use crate::pod::{self, Context, userns};
use crate::sys::ns::Home;

/// Bit n-1 subscribes to event n of NRI's api.proto.
mod event {
    pub const RUN_POD_SANDBOX: i32 = 1 << 0;
    pub const REMOVE_POD_SANDBOX: i32 = 1 << 2;
    pub const CREATE_CONTAINER: i32 = 1 << 3;
}

pub struct Plugin {
    pub journal: Journal,
    /// The configuration that must be there, and counts instead of what the runtime hands over.
    config_file: Option<PathBuf>,
    /// Else the first of these that is there: the runtime hands its drop-in only to plugins that it launches.
    drop_ins: Vec<PathBuf>,
    log_level: Option<Level>,
    run: Option<RunDir>,
    standby: bool,
    state: Option<State>,
    /// Pods named so far by a Synchronize that comes in parts.
    known: HashSet<String>,
    ping_failed: bool,
    /// It has been said that this runtime does not tell of images.
    untold: bool,
    /// The process at the other end of the connection, where it can be seen.
    pub runtime: Option<u32>,
}

/// What a Configure settles.
struct State {
    config: PluginConfig,
    node: Both<NodeIds>,
    features: RuntimeFeatures,
    home: Home,
}

impl Plugin {
    /// `log_level` goes before the configuration's.
    pub fn new(config_file: Option<PathBuf>, drop_ins: Vec<PathBuf>, log_level: Option<Level>) -> Plugin {
        Plugin {
            journal: Journal::new(log_level.unwrap_or(Level::Info)),
            config_file,
            drop_ins,
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

    /// Waits until no other instance acts. Errors of the node show here, before a runtime is asked for.
    pub fn wait_for_turn(&mut self) -> Result<(), String> {
        node::read()?;
        let run = open_once(&mut self.run)?;
        if !run.try_lock()? {
            let who = say::other(run);
            self.journal.say(Level::Info, format!("{who} acts; this one stands by"));
            run.wait_lock()?;
            self.journal.say(Level::Info, format!("{who} has ended; this one acts"));
        }
        Ok(())
    }

    /// Takes the configuration and what the runtime says of itself. Returns the events to subscribe to.
    pub fn configure(&mut self, request: &ConfigureRequest) -> Result<i32, Status> {
        self.try_configure(request).map_err(|why| failure(Code::InvalidArgument, format!("uid-mapper: {why}")))
    }

    fn try_configure(&mut self, request: &ConfigureRequest) -> Result<i32, String> {
        // A Synchronize that the last connection did not finish.
        self.known.clear();
        self.untold = false;
        let drop_in = || self.drop_ins.iter().find(|path| path.exists());
        let config = match self.config_file.as_ref().or_else(drop_in) {
            Some(path) => {
                let text = fs::read_to_string(path).doing(format_args!("read {}", path.display()))?;
                PluginConfig::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?
            }
            None => PluginConfig::parse(&request.config)?,
        };
        self.journal.set_level(self.log_level.or(config.log_level).unwrap_or(Level::Info));
        let node = node::read()?;
        let home = Home::open().doing(format_args!("open the node's namespaces"))?;
        let features = RuntimeFeatures::new(&request.runtime_name, &request.runtime_version, &request.nri_version);
        let run = open_once(&mut self.run)?;
        self.standby = !run.try_lock()?;

        self.journal.say(Level::Info, say::introduction(&node, &features, config.inject));
        if needs_nothing(&node) {
            self.journal.say(Level::Info, "the node maps all ids 0-65535: nothing to do");
        } else if let Some(warning) = say::shortcoming(&features) {
            self.journal.say(Level::Warning, warning);
        }
        if self.standby {
            self.journal.say(Level::Info, format!("{} acts; this one stands by", say::other(run)));
        }
        let events = match needs_nothing(&node) {
            // Nothing is made here, but an earlier instance may have left something.
            true => event::REMOVE_POD_SANDBOX,
            false if config.set_ping => event::CREATE_CONTAINER | event::REMOVE_POD_SANDBOX | event::RUN_POD_SANDBOX,
            false => event::CREATE_CONTAINER | event::REMOVE_POD_SANDBOX,
        };
        self.state = Some(State { config, node, features, home });
        Ok(events)
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
            let (removed, result) = run.sweep(&known);
            if removed > 0 {
                self.journal.say(Level::Info, format!("removed what was left of {removed} pods that are gone"));
            }
            if let Err(e) = result {
                self.journal.say(Level::Error, e);
            }
        }
    }

    /// Tells of a container that this plugin would have given a user namespace, and that has none.
    fn tell_if_missed(&self, request: &SynchronizeRequest, container: &RunningContainer) {
        let Some(State { node, home, .. }) = &self.state else { return };
        let namespace = |kind| namespace(&container.linux.namespaces, kind);
        if namespace("user").is_some() || namespace("network").is_none_or(|path| home.is_our_net(path)) {
            return;
        }
        // It may have been told of in an earlier part.
        let pod = request.pods.iter().find(|pod| pod.id == container.pod_sandbox_id);
        let (pod, namespace) = pod.map_or((&*container.pod_sandbox_id, ""), |pod| (&pod.name, &pod.namespace));
        let who = Subject { pod, namespace, container: &container.name };
        let ids = adjust::process_ids(container.user.as_ref());
        for kind in Kind::BOTH {
            if let Some(id) = ids.of(kind).iter().find(|id| !node.of(kind).contains(**id)) {
                let why = "was created while no plugin acted, or is privileged";
                self.journal.about(Level::Warning, &who, format_args!("{why}: its {kind} {id} is folded"));
            }
        }
    }

    pub fn pod_started(&mut self, pod: &PodSandbox) {
        if self.acts_or_says_why() {
            let network = namespace(&pod.linux.namespaces, "network").filter(|path| !path.is_empty());
            self.allow_ping(pod, network);
        }
    }

    pub fn pod_removed(&mut self, pod: &PodSandbox) {
        if let (true, Some(run)) = (self.acts_or_says_why(), &self.run)
            && let Err(e) = run.remove_pod(&pod.id)
        {
            self.journal.about(Level::Error, &subject(pod, ""), e);
        }
    }

    pub fn create(&mut self, request: &CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
        let State { config, node, features, home } = self.state.as_ref().ok_or_else(not_configured)?;
        let unchanged = Ok(CreateContainerResponse::default());
        if needs_nothing(node) {
            return unchanged;
        }
        let who = subject(&request.pod, &request.container.name);
        let candidate = adjust::candidate(&request.pod, &request.container, home);
        if !config.images.is_empty() {
            if request.container.image.is_some() {
                // Of several names of an image, the one that its line must match.
                self.journal.about(Level::Debug, &who, format_args!("its image is {:?}", candidate.image.name));
            } else if !std::mem::replace(&mut self.untold, true) {
                self.journal.say(Level::Warning, say::no_images(features));
            }
        }
        let answer = match decide(config, node, features, &candidate) {
            Err(NoNamespace::Leave(why)) => {
                self.journal.about(Level::Debug, &who, format_args!("left alone: {why}"));
                return unchanged;
            }
            _ if !self.acts()? => return unchanged,
            Err(NoNamespace::NoRoom(why)) if self.is_supervised() => {
                self.journal.about(Level::Warning, &who, format_args!("left alone, and folded by supervise: {why}"));
                return unchanged;
            }
            Err(NoNamespace::NoRoom(why) | NoNamespace::Refuse(why)) => Err(refusal(&why)),
            Ok(maps) => self.inject(request, &who, &maps),
        };
        if let Err(failure) = &answer {
            self.journal.about(Level::Error, &who, format_args!("refused: {}", failure.message));
        }
        answer
    }

    /// Makes what the container needs, and says so.
    fn inject(
        &mut self,
        request: &CreateContainerRequest,
        who: &Subject,
        maps: &Both<Assignment>,
    ) -> Result<CreateContainerResponse, Status> {
        let (Some(State { home, .. }), Some(run)) = (&self.state, &self.run) else { return Err(not_configured()) };
        let pod = run.pod(&request.pod.id)?;
        let pinned = userns::pinned(&pod, &Both::new(|kind| maps.of(kind).map.clone()))?;
        let (mut binds, mut new_network) = (Vec::new(), None);
        for foreign in adjust::foreign_mounts(&request.container) {
            let (source, made) = podfs::instance(&pod, home, foreign.fs, foreign.namespace)?;
            if made && foreign.fs == PodFs::Sysfs {
                new_network = foreign.namespace;
            }
            binds.push((foreign, source));
        }
        // For a pod that is older than this plugin; others had it when they started.
        self.allow_ping(&request.pod, new_network);

        let made = if pinned.reused { "joins" } else { "gets" };
        let (uids, gids) = (say::slots(&maps.uids), say::slots(&maps.gids));
        let message = format_args!("{made} user namespace {} with uids {uids} and gids {gids}", pinned.path);
        self.journal.about(Level::Info, who, message);
        for warning in Kind::BOTH.into_iter().flat_map(|kind| say::warnings(kind, maps.of(kind))) {
            self.journal.about(Level::Warning, who, warning);
        }
        let adjust = adjust::adjustment(pinned.path, binds, maps);
        Ok(CreateContainerResponse { adjust: Some(adjust).into(), ..Default::default() })
    }

    fn allow_ping(&mut self, pod: &PodSandbox, network: Option<&str>) {
        let (Some(State { config, node, home, .. }), Some(path)) = (&self.state, network) else { return };
        if !config.set_ping || needs_nothing(node) {
            return;
        }
        match podfs::allow_ping(home, path, &node.gids) {
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

    /// Whether supervise folds the calls of a container: the runtime is below it, or this process is, which a runtime has
    /// launched.
    fn is_supervised(&self) -> bool {
        self.runtime.is_some_and(presence::is_supervised) || presence::is_folded()
    }

    /// Whether this is the instance that acts; a standby tries to become it.
    fn acts(&mut self) -> pod::Result<bool> {
        let acts = open_once(&mut self.run)?.try_lock()?;
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

fn open_once(run: &mut Option<RunDir>) -> pod::Result<&mut RunDir> {
    let open = match run.take().filter(RunDir::is_there) {
        Some(open) => open,
        None => RunDir::open(rundir::PATH)?,
    };
    Ok(run.insert(open))
}

fn subject<'a>(pod: &'a PodSandbox, container: &'a str) -> Subject<'a> {
    Subject { pod: &pod.name, namespace: &pod.namespace, container }
}

fn refusal(why: impl Display) -> Status {
    failure(Code::FailedPrecondition, format!("uid-mapper: {why}"))
}

fn not_configured() -> Status {
    refusal("not configured yet")
}

impl From<pod::Error> for Status {
    fn from(e: pod::Error) -> Status {
        failure(Code::Internal, format!("uid-mapper: {e}"))
    }
}
