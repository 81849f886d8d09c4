//! Names for what is checked.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// Makes an enum with names and help from one list.
macro_rules! properties {
    ($(#[doc = $doc:literal])* $name:ident: $($(#[doc = $help:literal])* $variant:ident => $word:literal),+ $(,)?) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $($(#[doc = $help])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant),+];
            /// Their names.
            pub const NAMES: [&str; $name::ALL.len()] = [$($word),+];

            /// The name, as on the command line.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }

            /// What it says, in one line.
            pub fn help(self) -> &'static str {
                match self { $($name::$variant => concat!($($help),*).trim(),)+ }
            }
        }
    };
}

properties! {
    /// What must never happen.
    Safety:
    /// The machines' own invariants hold, bounds of their tables among them.
    Invariants => "invariants",
    /// Only a page that has failed is reported.
    ReportPage => "report-page",
    /// A report has the registers of the task that faulted.
    ReportTask => "report-task",
    /// A report says the same whichever way the fault took.
    ReportSame => "report-same",
    /// No failing access is tried again more than once for a failure of its page.
    OneRetry => "one-retry",
    /// Whoever sleeps for a token is going to be told it.
    TokenKept => "token-kept",
    /// No token is told twice.
    TokenOnce => "token-once",
    /// Nothing comes of a fetch that was overtaken.
    NoStaleInstall => "no-stale-install",
    /// A page has its data until its owner gives it up, and zeros from then on.
    RightContents => "right-contents",
    /// An error whose task does not come back is logged.
    ErrorKept => "error-kept",
}

properties! {
    /// What must not stay open for ever, if everybody is treated fairly.
    Promise:
    /// An access to a page that never comes ends.
    FailingEnds => "failing-ends",
    /// An access to a page that comes, or heals, ends with it.
    HealthyEnds => "healthy-ends",
    /// An access to a page that was repaired ends with it.
    RepairedServed => "repaired-served",
    /// A page that was refused the asynchronous way, and does not fail, gets it again.
    AsyncComesBack => "async-comes-back",
    /// An error that nobody comes back for is let go.
    UnclaimedEnds => "unclaimed-ends",
}

impl Safety {
    /// Its place in a set.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Property {
    /// Must never happen.
    Safety(Safety),
    /// Must not stay so for ever.
    Promise(Promise),
}

impl Property {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Property> {
        let safety = Safety::ALL.iter().copied().map(Property::Safety);
        safety.chain(Promise::ALL.iter().copied().map(Property::Promise))
    }

    /// The name, as on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Property::Safety(safety) => safety.as_str(),
            Property::Promise(promise) => promise.as_str(),
        }
    }

    /// What it says, in one line.
    pub fn help(self) -> &'static str {
        match self {
            Property::Safety(safety) => safety.help(),
            Property::Promise(promise) => promise.help(),
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name that is no property's.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("unknown property '{name}', expected one of: {}", names())]
pub struct UnknownProperty {
    /// What was asked for.
    pub name: String,
}

fn names() -> String {
    let names: Vec<&str> = Property::all().map(Property::as_str).collect();
    names.join(" ")
}

impl FromStr for Property {
    type Err = UnknownProperty;

    fn from_str(name: &str) -> Result<Property, UnknownProperty> {
        Property::all()
            .find(|property| property.as_str() == name)
            .ok_or_else(|| UnknownProperty {
                name: name.to_owned(),
            })
    }
}
