//! From root in the host's user namespace to what the workload may be: the last irrevocable steps.
//!
//! The order is forced: groups before the user, because afterwards there is no right to change them; the bounding set
//! while CAP_SETPCAP is there; ambient capabilities last, since they need to be permitted and inheritable. The filter
//! comes right before exec, so that it need not allow what we do: a profile is written for the workload. Without
//! no_new_privs its installation needs CAP_SYS_ADMIN, which is kept until then, past the gate, and given up under the
//! filter. Source: capabilities(7), seccomp(2), credentials(7).

use berth_sys::seccomp::{self, Instruction};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::plan::{Capabilities, ProcessPlan};
use crate::protocol::ResolvedUser;
use crate::stage::{Stage, StageError};

/// Capabilities are numbered below this (`CAP_LAST_CAP` is 40 in Linux 6.18; the kernel's sets have 64 bits).
const MAX_CAPABILITIES: u32 = 64;

/// Turns this process into the plan's user with the plan's rights; [`install_filter`] has to follow.
pub(crate) fn assume(process: &ProcessPlan, user: &ResolvedUser) -> Result<(), StageError> {
    Stage::SetNoNewPrivileges.begin()?;
    if process.no_new_privileges {
        set_no_new_privs(true).map_err(StageError::at(Stage::SetNoNewPrivileges, "no_new_privs"))?;
    }
    Stage::SetUser.begin()?;
    let kept = if needs_admin(process) { CapabilitySet::SYS_ADMIN } else { CapabilitySet::empty() };
    set_user(user, &process.capabilities, kept)
        .map_err(StageError::at(Stage::SetUser, format!("{}:{}", user.uid, user.gid)))
}

/// Installs the plan's filter, and gives up what was kept for that.
pub(crate) fn install_filter(process: &ProcessPlan) -> Result<(), StageError> {
    Stage::InstallSeccomp.begin()?;
    let Some(program) = &process.seccomp else { return Ok(()) };
    let program: Vec<Instruction> = program.iter().copied().map(Instruction).collect();
    seccomp::install(&program, process.seccomp_flags)
        .map_err(StageError::at(Stage::InstallSeccomp, "filter"))?;
    if needs_admin(process) {
        set_capabilities(None, sets_of(&process.capabilities))
            .map_err(StageError::at(Stage::SetUser, "capabilities"))?;
    }
    Ok(())
}

fn needs_admin(process: &ProcessPlan) -> bool {
    process.seccomp.is_some() && !process.no_new_privileges
}

fn set_user(user: &ResolvedUser, capabilities: &Capabilities, kept: CapabilitySet) -> Result<(), Errno> {
    limit_bounding_set(capabilities.bounding)?;
    set_keep_capabilities(true)?;
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    let (gid, uid) = (Gid::from_raw(user.gid), Uid::from_raw(user.uid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_keep_capabilities(false)?;
    let wanted = sets_of(capabilities);
    let sets = CapabilitySets {
        effective: wanted.effective | kept,
        permitted: wanted.permitted | kept,
        inheritable: wanted.inheritable,
    };
    set_capabilities(None, sets)?;
    clear_ambient_capability_set()?;
    for capability in each(capabilities.ambient) {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

fn sets_of(capabilities: &Capabilities) -> CapabilitySets {
    let set = CapabilitySet::from_bits_retain;
    CapabilitySets {
        effective: set(capabilities.effective),
        permitted: set(capabilities.effective),
        inheritable: set(capabilities.inheritable),
    }
}

/// Takes every capability out of the bounding set that is not in `keep`, so that no exec can bring it back.
pub(crate) fn limit_bounding_set(keep: u64) -> Result<(), Errno> {
    for capability in each(!keep) {
        match remove_capability_from_bounding_set(capability) {
            // Past the last capability that this kernel knows.
            Err(Errno::INVAL) => break,
            // Who may remove none need not, where it is not there.
            Err(Errno::PERM) if capability_is_in_bounding_set(capability) == Ok(false) => {}
            removed => removed?,
        }
    }
    Ok(())
}

fn each(mask: u64) -> impl Iterator<Item = CapabilitySet> {
    (0..MAX_CAPABILITIES)
        .map(|bit| 1 << bit)
        .filter(move |bit| mask & bit != 0)
        .map(CapabilitySet::from_bits_retain)
}
