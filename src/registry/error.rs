//! Why a command was refused or failed. Each message says what was wrong and what to do; none holds a raw token.

use jiff::Timestamp;

use super::actor::Right;
use super::steps::Progress;
use crate::random::NoEntropy;
use crate::store::StoreError;
use crate::token::raw::PREFIX;
use crate::token::{Digest, DigestPrefix, PermissionSet, Role, TokenId};

/// Why a command was refused or failed. Nothing was changed, except where the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no user at all yet.
    #[error("the registry has no users yet; `tollgate init` creates the Owner and the first token")]
    NotInitialised,
    /// `init` a second time.
    #[error("the registry has an Owner already; `tollgate init` is for an empty one")]
    AlreadyInitialised,
    /// No user with this name, or none that the actor may see.
    #[error("there is no user {}; `tollgate user list` shows all users", quoted(.0))]
    NoSuchUser(String),
    /// No tokens with these ids, or none that the actor may see.
    #[error("there is no token {}; `tollgate token list` shows all tokens, those deleted already left out", list(.0))]
    NoSuchTokens(Vec<TokenId>),
    /// No token whose digest begins so, or none that the actor may see. By a few digits one that was deleted is not found.
    #[error(
        "no token of this registry has a digest that begins with {digits:.12}: it never had one, or it was deleted{when}, or the agents' \
         sidecar uses another registry (`tollgate status`)",
        digits = .0, when = when_deleted(.0)
    )]
    NoSuchDigest(DigestPrefix),
    /// The token with that digest was deleted.
    #[error("the token whose digest begins with {0} was deleted, and its record and history with it")]
    DigestDeleted(DigestPrefix),
    /// It is no longer as whoever gave the command saw it.
    #[error("it was changed since you read it; read it again")]
    Changed,
    /// Ids that one command names more than once.
    #[error("named more than once: {}; name each token once", list(.0))]
    RepeatedTokens(Vec<TokenId>),
    /// The actor's role does not allow it.
    #[error("{actor} may not {right}: {}", right.rule())]
    Forbidden {
        /// Who asked.
        actor: String,
        /// What for.
        right: Right,
    },
    /// The actor is no longer a user.
    #[error("{0} is no longer a user and may do nothing")]
    ActorDeleted(String),
    /// The actor was disabled.
    #[error("{0} is disabled and may do nothing")]
    ActorDisabled(String),
    /// The token by which somebody acts was revoked, deleted, or expired.
    #[error("the token {0} that was shown is no longer valid")]
    ActingTokenUnusable(TokenId),
    /// The token by which somebody acts does not permit it, or not what it should give.
    #[error("Insufficient permissions: {} required", names(.0))]
    ActingTokenLacks(PermissionSet),
    /// A token would outlive the one that makes it.
    #[error("a token cannot make one that outlives it: give the new one an expiry, {0} at the latest")]
    OutlivesMaker(Timestamp),
    /// The token that acts is one of several that would lose something.
    #[error("the token {0} is the one that you are using; leave it out, or name it alone")]
    ActingTokenAmong(TokenId),
    /// Not a user name.
    #[error(
        "{} is not a user name: use 1 to 64 of A-Z a-z 0-9 . _ @ + - with nothing in it that may be a token, and neither . nor ..",
        quoted(.0)
    )]
    InvalidName(String),
    /// Not a description of a token.
    #[error(
        "a description has 1 to 200 characters that can be read, and no token in it: neither control characters nor what turns \
         text around, hides in it or is piled up on it"
    )]
    InvalidDescription,
    /// A second user of that name.
    #[error("a user named {} exists already; choose another name", quoted(.0))]
    NameTaken(String),
    /// The Owner's role goes to another user only as a whole.
    #[error("{0} is the Owner, whose role cannot be changed; {TRANSFER_FIRST}")]
    OwnerRole(String),
    /// The Owner cannot be disabled.
    #[error("{0} is the Owner, who cannot be disabled; {TRANSFER_FIRST}")]
    OwnerNotDisabled(String),
    /// The Owner cannot be deleted.
    #[error("{0} is the Owner, who cannot be deleted; {TRANSFER_FIRST}")]
    OwnerNotDeleted(String),
    /// A second Owner was asked for.
    #[error("there is exactly one Owner; use `tollgate user transfer-ownership` to make an Administrator the Owner")]
    OneOwnerOnly,
    /// Nobody disables their own user.
    #[error("{0} cannot disable their own user; another user has to do it")]
    OwnUserNotDisabled(String),
    /// Nobody deletes their own user.
    #[error("{0} cannot delete their own user; another user has to do it")]
    OwnUserNotDeleted(String),
    /// Ownership can go to an Administrator only.
    #[error("{name} is {role}, and the ownership goes to an Administrator only; change the role first")]
    NotAnAdministrator {
        /// Who should get it.
        name: String,
        /// The role they have.
        role: Role,
    },
    /// The user is disabled.
    #[error("{0} is disabled; enable them first (`tollgate user enable {0}`)")]
    UserDisabled(String),
    /// Viewers get no new tokens.
    #[error("{0} is a viewer, and viewers get no new tokens; change the role or name another user")]
    NoTokensForViewer(String),
    /// Nothing of what was requested is permitted by the owner's role.
    #[error("{role} {name} has none of the requested permissions ({}); the role has {}", names(.requested), names(.permitted))]
    NothingPermitted {
        /// The owner of the token that was not made.
        name: String,
        /// The owner's role.
        role: Role,
        /// What was requested.
        requested: PermissionSet,
        /// What the role has.
        permitted: PermissionSet,
    },
    /// It would never work.
    #[error("the expiry {0} is in the past; give one in the future, or none")]
    AlreadyExpired(Timestamp),
    /// The policy has it shorter.
    #[error(
        "it would expire after {0}, the latest that registry.max_token_lifetime allows a token that is made now; leave the expiry out for that one"
    )]
    LivesTooLong(Timestamp),
    /// Revoked tokens cannot be reassigned.
    #[error("revoked, and revocation is final: {}; only active tokens can be reassigned", list(.0))]
    NotActive(Vec<TokenId>),
    /// Revoked tokens cannot be rotated.
    #[error("{0} is revoked, and revocation is final: create a new token instead (`tollgate token create`)")]
    RotatesRevoked(TokenId),
    /// Neither can expired ones.
    #[error(
        "{0} has expired, and whoever has it is refused already: create a new token instead (`tollgate token create`)"
    )]
    RotatesExpired(TokenId),
    /// A token is rotated once.
    #[error(
        "{token} was rotated already, and its successor is {successor}: rotate that one (`tollgate token rotate {successor}`)"
    )]
    RotatedAlready {
        /// Which one.
        token: TokenId,
        /// What it was rotated to.
        successor: TokenId,
    },
    /// The Owner would be left without a usable token.
    #[error("{owner} is the Owner and would be left without a usable token; create another one first, or use --force")]
    LastOwnerToken {
        /// The Owner's name.
        owner: String,
        /// The Owner's usable tokens among those named.
        tokens: Vec<TokenId>,
    },
    /// The digest belongs to a token that exists.
    #[error("this token is registered already (its digest begins with {})", DigestPrefix::of(.0))]
    DigestTaken(Digest),
    /// The digest belongs, or belonged, to a token that the actor may not see.
    #[error("a token that you may not see has or had this value; bring another one")]
    DigestHidden(Digest),
    /// The digest belongs to a token that never works again.
    #[error("the token of this value is there already ({token}), but {why}, and that is final; bring another value")]
    DigestUseless {
        /// Which one.
        token: TokenId,
        /// What became of it.
        why: String,
    },
    /// The digest belongs to a token that was revoked.
    #[error("this token was revoked here and stays so (its id is {token}); leave it out")]
    DigestRevoked {
        /// Which one.
        token: TokenId,
    },
    /// The digest belongs to a token that was revoked elsewhere only.
    #[error(
        "this token was revoked where it comes from, and works here (its id is {token}); revoke it here too (`tollgate token revoke \
         {token}`)"
    )]
    RevokedElsewhere {
        /// Which one.
        token: TokenId,
    },
    /// The id that a token had elsewhere belongs to another one here.
    #[error("the id {0} belongs to another token here; import this one without its past")]
    IdTaken(TokenId),
    /// The digest belonged to a token that was deleted.
    #[error(
        "this token was deleted, and a deleted token cannot be added again (its digest begins with {}); create a new one",
        DigestPrefix::of(.0)
    )]
    DigestRetired(Digest),
    /// Other commands came in between each time.
    #[error("given up after {0} attempts, because other changes came in between each time; try again")]
    Busy(u32),
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes for a new token: {0}")]
    NoEntropy(NoEntropy),
    /// The audit trail has to be written somewhere, and cannot be.
    #[error("nothing was changed, because the audit trail cannot be written ({0}), and audit.required is set")]
    AuditNotWritten(String),
    /// Reading failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commit failed.
    #[error("nothing was changed")]
    NotCommitted(#[source] StoreError),
    /// The commit failed in a way that leaves open whether it happened.
    #[error(
        "it is unknown whether the change was committed; check with `tollgate token show ID` or `tollgate user show NAME`, \
         and run the command again if it was not"
    )]
    OutcomeUnknown(#[source] StoreError),
    /// The same for a new token. Nobody has seen it.
    #[error(
        "it is unknown whether the token {id} was created; check with `tollgate token show {id}`. Its value was not printed: \
         create another token, and revoke this one if it exists (`tollgate token revoke {id}`)"
    )]
    CreationUnknown {
        /// The token's.
        id: TokenId,
        /// Why it is unknown.
        #[source]
        source: StoreError,
    },
    /// What tokens were elsewhere was put aside, and is lost.
    #[error("what lines of the import say of the past cannot be read back from a temporary file; try again")]
    PastUnread(#[source] std::io::Error),
    /// A command on more tokens than one commit takes failed after the first of its commits.
    #[error("{done}")]
    Interrupted {
        /// What was done.
        done: PartlyDone,
        /// Why not all.
        #[source]
        source: Box<RegistryError>,
    },
}

const TRANSFER_FIRST: &str = "transfer the ownership first (`tollgate user transfer-ownership`)";

/// What a command did before it failed, and how to do the rest. The numbers are of what was done, and of all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartlyDone {
    /// Revoked tokens.
    #[error("interrupted after {0} of {1} tokens were revoked; run the command again for the others")]
    Revoked(usize, usize),
    /// Deleted tokens.
    #[error(
        "interrupted after {0} of {1} tokens were deleted; run the command again without these, which were named first"
    )]
    Deleted(usize, usize),
    /// Deleted tokens of no use.
    #[error("interrupted after {0} tokens were deleted; run the command again for the others")]
    Purged(usize),
    /// Reassigned tokens.
    #[error("interrupted after {0} of {1} tokens were reassigned; run the command again for the others")]
    Reassigned(usize, usize),
    /// Imported lines.
    #[error(
        "interrupted after {0} of {1} lines were imported; run the same import with --skip-existing for the others"
    )]
    Imported(usize, usize),
    /// Changed a user, or tokens of the user.
    #[error(transparent)]
    User(#[from] Progress),
}

impl PartlyDone {
    /// How many of the tokens that were named.
    fn tokens(&self) -> Option<usize> {
        match self {
            Self::Revoked(done, _) | Self::Deleted(done, _) | Self::Reassigned(done, _) => Some(*done),
            Self::Purged(_) | Self::Imported(..) | Self::User(_) => None,
        }
    }
}

/// What a caller does about an error: decides status codes and exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was named does not exist, or the actor may not know that it does.
    NotFound,
    /// Somebody with another role may do it.
    Forbidden,
    /// The command itself is wrong, whatever the registry holds.
    Invalid,
    /// It does not fit what the registry holds now.
    Conflict,
    /// It was not the command's fault; trying again may help.
    Unavailable,
    /// It may have been done, or part of it. Look before trying again.
    Unknown,
}

impl RegistryError {
    /// The error of a command that did something before it failed.
    pub(super) fn interrupted(done: PartlyDone, error: Self) -> Self {
        let source = match error {
            Self::NotCommitted(source) => Self::Store(source), // which said that nothing was changed
            error => error,
        };
        Self::Interrupted { done, source: Box::new(source) }
    }

    /// The same error of a command that makes this token.
    pub(super) fn of_creating(self, id: TokenId) -> Self {
        match self {
            Self::OutcomeUnknown(source) => Self::CreationUnknown { id, source },
            error => error,
        }
    }

    /// Of a command on many tokens that was broken off: to how many it was done.
    pub(crate) fn done(&self) -> Option<usize> {
        match self {
            Self::Interrupted { done, .. } => done.tokens(),
            _ => None,
        }
    }

    /// What a caller does about it.
    #[deny(clippy::wildcard_enum_match_arm)] // a new error must be placed by hand
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchUser(_) | Self::NoSuchTokens(_) | Self::NoSuchDigest(_) | Self::DigestDeleted(_) => {
                ErrorKind::NotFound
            }
            Self::Forbidden { .. }
            | Self::ActorDeleted(_)
            | Self::ActorDisabled(_)
            | Self::ActingTokenUnusable(_)
            | Self::ActingTokenLacks(_)
            | Self::OutlivesMaker(_) => ErrorKind::Forbidden,
            Self::RepeatedTokens(_)
            | Self::InvalidName(_)
            | Self::InvalidDescription
            | Self::OneOwnerOnly
            | Self::NothingPermitted { .. }
            | Self::LivesTooLong(_)
            | Self::AlreadyExpired(_) => ErrorKind::Invalid,
            Self::NotInitialised
            | Self::Changed
            | Self::AlreadyInitialised
            | Self::NameTaken(_)
            | Self::OwnerRole(_)
            | Self::OwnerNotDisabled(_)
            | Self::OwnerNotDeleted(_)
            | Self::OwnUserNotDisabled(_)
            | Self::OwnUserNotDeleted(_)
            | Self::NotAnAdministrator { .. }
            | Self::UserDisabled(_)
            | Self::NoTokensForViewer(_)
            | Self::NotActive(_)
            | Self::ActingTokenAmong(_)
            | Self::RotatesRevoked(_)
            | Self::RotatesExpired(_)
            | Self::RotatedAlready { .. }
            | Self::LastOwnerToken { .. }
            | Self::DigestTaken(_)
            | Self::DigestHidden(_)
            | Self::DigestRevoked { .. }
            | Self::DigestUseless { .. }
            | Self::RevokedElsewhere { .. }
            | Self::IdTaken(_)
            | Self::DigestRetired(_) => ErrorKind::Conflict,
            Self::Busy(_)
            | Self::NoEntropy(_)
            | Self::AuditNotWritten(_)
            | Self::Store(_)
            | Self::NotCommitted(_)
            | Self::PastUnread(_) => ErrorKind::Unavailable,
            Self::OutcomeUnknown(_) | Self::CreationUnknown { .. } => ErrorKind::Unknown,
            Self::Interrupted { source, .. } => source.kind(),
        }
    }
}

/// Of those that were deleted the latest are known, but only by all of their digits.
fn when_deleted(digits: &DigestPrefix) -> &'static str {
    match digits.digest() {
        Some(_) => " long ago",
        None => " (`tollgate token find` with its value on standard input says whether)",
    }
}

/// Most characters of somebody's text that a message repeats.
const MAX_QUOTED: usize = 64;

/// Somebody's text for a message: escaped, bounded, and without the secret if it is a token in the wrong place.
fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(MAX_QUOTED).collect();
    let more = if shown.len() < text.len() { "..." } else { "" };
    format!("`{}{more}`", without_tokens(&shown).escape_debug())
}

/// The text up to the first token in it, also one without its prefix: where exactly a token ends in a text is unknown.
pub(crate) fn without_tokens(text: &str) -> String {
    let prefixed = text.to_ascii_lowercase().find(PREFIX).map(|at| at + PREFIX.len());
    match prefixed.into_iter().chain(bare_secret(text)).min() {
        Some(end) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether a text may hold the value of a token, however it is encoded: such a text goes into no address and no name.
pub(crate) fn holds_token(text: &str) -> bool {
    let holds = |text: &str| without_tokens(text) != *text;
    holds(text) || form_urlencoded::parse(text.as_bytes()).any(|(name, value)| holds(&name) || holds(&value))
}

/// Fewest letters and digits in a row that are taken for a secret.
const SECRET_RUN: usize = 32;

fn bare_secret(text: &str) -> Option<usize> {
    let mut begin = 0;
    let ends = text.match_indices(|symbol: char| !symbol.is_ascii_alphanumeric());
    ends.chain([(text.len(), "")]).find_map(|(end, symbol)| {
        let (run, length) = (begin, end - begin);
        begin = end + symbol.len();
        (length >= SECRET_RUN).then_some(run)
    })
}

/// Most ids that a message lists.
const MAX_LISTED: usize = 20;

fn list(ids: &[TokenId]) -> String {
    let mut listed = ids.iter().take(MAX_LISTED).map(TokenId::to_string).collect::<Vec<_>>().join(", ");
    if ids.len() > MAX_LISTED {
        listed.push_str(&format!(" and {} more", ids.len() - MAX_LISTED));
    }
    listed
}

fn names(permissions: &PermissionSet) -> String {
    if permissions.is_empty() {
        return "none at all".to_owned();
    }
    permissions.iter().map(|permission| permission.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_given_as_a_name_is_not_repeated() {
        let message = RegistryError::NoSuchUser("tc-apiv1_0123456789abcdef".to_owned()).to_string();
        assert!(message.contains("`tc-apiv1_...`"), "{message}");
        assert!(!message.contains("0123"), "{message}");
        assert_eq!(without_tokens("a tc-apiv1_x y"), "a tc-apiv1_...");
        assert_eq!(without_tokens("a TC-Apiv1_x y"), "a TC-Apiv1_...");
        let secret = "0123456789abcdef".repeat(4);
        assert_eq!(RegistryError::NoSuchUser(secret.clone()).to_string().matches("0123").count(), 0);
        assert_eq!(without_tokens(&format!("a {secret} y")), "a ...");
        assert_eq!(without_tokens(&format!("{}-x", &secret[..31])), format!("{}-x", &secret[..31]));
    }

    #[test]
    fn a_text_may_hold_a_token_however_it_is_written() {
        let secret = "0123456789abcdef".repeat(4);
        for text in
            ["tc-apiv1_x", "TC-APIV1_x", "%74c-apiv1_x", &secret, &secret.to_uppercase(), &format!("c-{secret}")]
        {
            assert!(holds_token(text), "{text}");
        }
        assert!(!holds_token("user=fleet&state=active&sort=description&permission=configs%3Aread"));
        assert!(!holds_token("plant 7 & 50%") && !holds_token(&secret[..31]));
    }

    #[test]
    fn messages_repeat_texts_escaped_and_bounded() {
        assert_eq!(quoted("a\n\u{1b}"), "`a\\n\\u{1b}`");
        assert_eq!(quoted(&"é".repeat(65)), format!("`{}...`", "é".repeat(64)));
    }

    #[test]
    fn long_lists_of_ids_are_cut() {
        let ids: Vec<_> = (0..100_000).map(TokenId::from_u64).collect();
        let message = RegistryError::NoSuchTokens(ids).to_string();
        assert!(message.contains("and 99980 more") && message.len() < 500, "{message}");
    }
}
