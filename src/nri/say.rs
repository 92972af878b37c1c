//! What the log says of a node, a runtime and a container's maps.

use crate::map::assign::Assignment;
use crate::map::kind::{Both, Kind};
use crate::map::pool::NodeIds;
use crate::pod::config::Inject;
use crate::pod::features::RuntimeFeatures;
use crate::pod::rundir::RunDir;

/// More warnings than this about the uids, or the gids, of one container are only counted.
const MAX_WARNINGS: usize = 16;
/// A displaced id below this is worth a warning: images have such users.
const NOTABLE: u32 = 1000;
/// So many wanted ids and their slots are named.
const SHOWN: usize = 8;

/// The line at start.
pub fn introduction(node: &Both<NodeIds>, features: &RuntimeFeatures, inject: Inject) -> String {
    let Both { uids, gids } = node;
    let gid_text = match uids == gids {
        true => String::new(),
        false => format!("; its gids {}, pool {}", gids.ids(), gids.pool()),
    };
    format!(
        "version {}; runtime {}; inject={}; pool {}; {} of the ids 0-65535 share a slot; node ids {}{gid_text}",
        env!("CARGO_PKG_VERSION"),
        features.runtime,
        format!("{inject:?}").to_lowercase(),
        uids.pool(),
        uids.sharing_a_slot(),
        uids.ids(),
    )
}

/// What the plugin cannot do with this runtime.
pub fn shortcoming(features: &RuntimeFeatures) -> Option<String> {
    let why = match (features.takes_namespaces, features.tells_user) {
        (false, _) => {
            "cannot put containers into user namespaces through NRI; containers that ask for ids which the node lacks \
             are refused; containerd 2.2 or later is needed"
        }
        (true, false) => {
            "does not tell plugins who a container runs as: only annotated ids and inject=all have an effect; \
             containerd 2.3 or later tells"
        }
        (true, true) => return None,
    };
    Some(format!("{} {why}", features.runtime))
}

pub fn no_images(features: &RuntimeFeatures) -> String {
    let why = "does not tell plugins a container's image: image lines have no effect; containerd 2.4 or later tells";
    format!("{} {why}", features.runtime)
}

/// The other instance, as the subject of a sentence.
pub fn other(run: &RunDir) -> String {
    run.holder().map_or("another instance".to_owned(), |pid| format!("another instance, pid {pid},"))
}

/// The first few wanted ids and their slots: `10001 on 1809`.
pub fn slots(assignment: &Assignment) -> String {
    let placed = &assignment.placed;
    let shown: Vec<String> = placed.iter().take(SHOWN).map(|(id, slot)| format!("{id} on {slot}")).collect();
    match placed.len() {
        0 => "as the node's".to_owned(),
        n if n > SHOWN => format!("{} and {} more", shown.join(", "), n - SHOWN),
        _ => shown.join(", "),
    }
}

/// Every collision, and displaced ids that images are likely to use. A pod can have many thousands.
pub fn warnings(kind: Kind, assignment: &Assignment) -> Vec<String> {
    let collisions = assignment.collisions.iter().map(|c| c.describe(kind));
    let displaced = assignment.placed.iter().filter(|(_, slot)| slot.0 < NOTABLE);
    let more = (collisions.len() + displaced.clone().count()).saturating_sub(MAX_WARNINGS);
    let displaced = displaced.map(|(id, slot)| format!("{kind} {slot} cannot be used: {kind} {id} has its slot"));
    let mut all: Vec<String> = collisions.chain(displaced).take(MAX_WARNINGS).collect();
    if more > 0 {
        all.push(format!("and {more} more such {kind}s"));
    }
    all
}
