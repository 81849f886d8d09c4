//! One list of policies makes the run-time choice, the parser and the help.

use thiserror::Error;

use super::PolicyKind;

/// A name that is no policy's.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("unknown policy '{name}', expected one of: {}", PolicyKind::names())]
pub struct UnknownPolicyError {
    /// What was asked for.
    pub name: String,
}

/// Makes `PolicyKind` (names, parser, help) and `AnyPolicy` (a policy chosen at run time) from a
/// list of `/// help`, type and name. The default is marked.
macro_rules! policies {
    ($($(#[doc = $help:literal])* $policy:ident => $name:literal $(($marked:ident))?),+ $(,)?) => {
        /// A policy by name.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum PolicyKind {
            $($(#[doc = $help])* $policy,)+
        }

        impl PolicyKind {
            /// All policies, in the order of the list.
            pub const ALL: &[PolicyKind] = &[$(PolicyKind::$policy),+];

            /// The policy's name, as on the command line.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(PolicyKind::$policy => $name,)+
                }
            }

            /// What the policy does, in one line.
            pub fn help(self) -> &'static str {
                match self {
                    $(PolicyKind::$policy => concat!($($help),*).trim(),)+
                }
            }

            /// All names, for a message.
            pub fn names() -> &'static str {
                const ALL: &str = concat!($(" ", $name),+);
                ALL.trim_start()
            }

            /// This policy for a VM of this shape.
            pub fn build(self, config: &crate::faults::FaultsConfig) -> AnyPolicy {
                match self {
                    $(PolicyKind::$policy => AnyPolicy::$policy(<$policy as Policy>::new(config)),)+
                }
            }
        }

        impl Default for PolicyKind {
            fn default() -> PolicyKind {
                // Exactly one entry is marked: none or two do not compile.
                let [marked] = [$($(list::policies!(@marked $policy $marked))?)+];
                marked
            }
        }

        impl core::fmt::Display for PolicyKind {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl core::str::FromStr for PolicyKind {
            type Err = UnknownPolicyError;

            fn from_str(name: &str) -> Result<PolicyKind, UnknownPolicyError> {
                match name {
                    $($name => Ok(PolicyKind::$policy),)+
                    _ => Err(UnknownPolicyError { name: name.to_owned() }),
                }
            }
        }

        /// A policy chosen at run time.
        #[derive(PartialEq, Eq, Hash, Debug)]
        pub enum AnyPolicy {
            $($(#[doc = $help])* $policy($policy),)+
        }

        impl Clone for AnyPolicy {
            fn clone(&self) -> AnyPolicy {
                match self {
                    $(AnyPolicy::$policy(policy) => AnyPolicy::$policy(policy.clone()),)+
                }
            }

            fn clone_from(&mut self, source: &AnyPolicy) {
                match (self, source) {
                    $((AnyPolicy::$policy(policy), AnyPolicy::$policy(source)) => {
                        policy.clone_from(source);
                    })+
                    (policy, source) => *policy = source.clone(),
                }
            }
        }

        impl AnyPolicy {
            /// Which policy this is.
            pub const fn kind(&self) -> PolicyKind {
                match self {
                    $(AnyPolicy::$policy(_) => PolicyKind::$policy,)+
                }
            }
        }

        impl Policy for AnyPolicy {
            /// The default policy; [`PolicyKind::build`] makes the others.
            fn new(config: &crate::faults::FaultsConfig) -> AnyPolicy {
                PolicyKind::default().build(config)
            }
            fn may_go_async(&mut self, attempt: &Attempt) -> bool {
                match self { $(AnyPolicy::$policy(policy) => policy.may_go_async(attempt),)+ }
            }
            fn work_failed(&mut self, failed: &AsyncFailure) -> AfterFailure {
                match self { $(AnyPolicy::$policy(policy) => policy.work_failed(failed),)+ }
            }
            fn async_failed(&mut self, failed: &AsyncFailure) -> AfterFailure {
                match self { $(AnyPolicy::$policy(policy) => policy.async_failed(failed),)+ }
            }
            fn error_reported(&mut self, vcpu: VcpuId, page: PageId) {
                match self { $(AnyPolicy::$policy(policy) => policy.error_reported(vcpu, page),)+ }
            }
            fn abnormal_pfn_handled(&mut self, vcpu: VcpuId, paging: Paging) {
                match self {
                    $(AnyPolicy::$policy(policy) => policy.abnormal_pfn_handled(vcpu, paging),)+
                }
            }
            fn page_mapped(&mut self, vcpu: VcpuId, gfn: Gfn) {
                match self { $(AnyPolicy::$policy(policy) => policy.page_mapped(vcpu, gfn),)+ }
            }
            fn slot_removed(&mut self, first: Gfn, last: Gfn) {
                match self { $(AnyPolicy::$policy(policy) => policy.slot_removed(first, last),)+ }
            }
            fn vcpu_reset(&mut self, vcpu: VcpuId) {
                match self { $(AnyPolicy::$policy(policy) => policy.vcpu_reset(vcpu),)+ }
            }
            fn is_off(&self, vcpu: VcpuId) -> bool {
                match self { $(AnyPolicy::$policy(policy) => policy.is_off(vcpu),)+ }
            }
            fn state_bytes(&self) -> usize {
                match self { $(AnyPolicy::$policy(policy) => policy.state_bytes(),)+ }
            }
            fn poll_timer(&mut self) -> Option<(PolicyTimer, Duration)> {
                match self { $(AnyPolicy::$policy(policy) => policy.poll_timer(),)+ }
            }
            fn timer_fired(&mut self, timer: PolicyTimer) {
                match self { $(AnyPolicy::$policy(policy) => policy.timer_fired(timer),)+ }
            }
        }
    };
    (@marked $policy:ident default) => { PolicyKind::$policy };
}

pub(super) use policies;
