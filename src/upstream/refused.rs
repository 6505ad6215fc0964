//! What an upstream says of a credential that is not the client's: the service token with `replace`, none with `strip`. That
//! it refuses this is the sidecar's fault and no client's, so it is counted, logged now and then, and shown by `/readyz`.
//!
//! Each node has a word of its own: the token cache of one may be empty.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use http::StatusCode;

use super::connect::Address;
use super::{CredentialMode, Node, Upstream};
use crate::sampler::Sampler;
use crate::token::Permission;

/// The refusals of one upstream's credential.
#[derive(Debug, Default)]
pub(crate) struct CredentialRefusals {
    total: AtomicU64,
    refused: Sampler,
    taken: Sampler,
}

impl CredentialRefusals {
    /// How many there were.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// What a request asks of the Controller, as far as it tells what a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A heartbeat, or a fetch of a configuration: it may fail for nothing but the credential.
    ForAgents,
    /// Something else. The Controller may want another kind of sign-in for it.
    Other(Option<Permission>),
}

/// What one node says of the credential in use.
///
/// It refuses the credential where it refuses what agents need. A 401 for something else may be that thing's own, and whoever
/// holds a token may ask for it again and again; so it takes 401s for two different resources, with nothing taken in between.
#[derive(Debug, Default)]
pub(super) struct Verdict(AtomicU32);

impl Verdict {
    /// Below: the status of the refusal that it rests on. Above: what was refused first, while there is no verdict.
    const STATUS: u32 = 0xffff;

    /// The status of the latest refusal, if it is one of the credential.
    fn status(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed) & Self::STATUS).filter(|status| *status != 0)
    }

    /// Whether the node refuses the credential.
    pub(super) fn is_refusal(&self) -> bool {
        self.status().is_some()
    }

    /// Nothing is known of the credential in use now.
    pub(super) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The node refused this. Whether it refuses the credential.
    fn refused(&self, status: StatusCode, asked: Asked) -> bool {
        let status = u32::from(status.as_u16());
        let before = self.0.load(Ordering::Relaxed);
        let suspicion = match asked {
            Asked::ForAgents => None,
            Asked::Other(needed) => {
                let resource = needed.map_or(0, |needed| 1 + needed.resource() as u32);
                Some((1 + resource) << 16)
            }
        };
        match suspicion {
            Some(suspicion) if before == 0 || before == suspicion => {
                self.0.store(suspicion, Ordering::Relaxed);
                false
            }
            _ => {
                self.0.store(status, Ordering::Relaxed);
                true
            }
        }
    }

    /// The credential was taken. `true`: it was refused before. Who lacks the permission for what agents need may still do
    /// everything else, so only what agents need shows that this is over.
    fn taken(&self, asked: Asked) -> bool {
        let before = self.0.load(Ordering::Relaxed);
        let is_over = before != 0 && (asked == Asked::ForAgents || before != u32::from(StatusCode::FORBIDDEN.as_u16()));
        is_over
            && self.0.compare_exchange(before, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && before & Self::STATUS != 0
    }
}

impl Upstream {
    /// Whether a node's reply with this status may refuse a credential that is not the client's. To be asked about replies to
    /// requests that a token was needed for.
    pub(crate) fn may_refuse_credential(&self, node: &Node, status: StatusCode, asked: Asked) -> bool {
        if self.config.credential == CredentialMode::Forward {
            return false;
        }
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            if node.verdict.taken(asked)
                && let Some(left_out) = self.credential_refusals.taken.admit()
            {
                let (upstream, node) = (self.name.name(), &node.url);
                tracing::info!(upstream, %node, left_out, "the Controller takes the sidecar's credential again");
            }
            return false;
        }
        status == StatusCode::UNAUTHORIZED || (asked == Asked::ForAgents && status == StatusCode::FORBIDDEN)
    }

    /// Counts a node's refusal of the credential and logs it, unless there were many lately.
    pub(crate) fn report_refused(
        &self,
        node: &Node,
        address: &Address,
        status: StatusCode,
        asked: Asked,
        request_id: &str,
    ) {
        let is_verdict = node.verdict.refused(status, asked);
        let CredentialRefusals { total, refused, .. } = &*self.credential_refusals;
        total.fetch_add(1, Ordering::Relaxed);
        let Some(left_out) = refused.admit() else { return };
        let (upstream, node, status) = (self.name.name(), &node.url, status.as_u16());
        match &self.config.credential {
            CredentialMode::Replace { token_file } => {
                let token_file = token_file.display();
                match is_verdict {
                    true => tracing::error!(
                        upstream, %node, %address, %token_file, status, request_id, left_out,
                        "the Controller refuses the service token: requests with good tokens get 502"
                    ),
                    false => tracing::warn!(
                        upstream, %node, %address, %token_file, status, request_id, left_out,
                        "the Controller refuses a request with the service token, and maybe this one alone"
                    ),
                }
            }
            CredentialMode::Strip | CredentialMode::Forward => tracing::error!(
                upstream, %node, %address, status, request_id, left_out,
                "the Controller asks for a token and gets none, since credential.mode is \"strip\": requests with good tokens get 502"
            ),
        }
    }

    /// What is wrong with the credential, at each node that refuses it.
    pub(crate) fn credential_problems(&self) -> impl Iterator<Item = String> {
        let upstream = self.name.name();
        let refusing = self.nodes.iter().filter_map(|node| Some((&node.url, node.verdict.status()?)));
        refusing.map(move |(node, status)| match &self.config.credential {
            CredentialMode::Replace { token_file } => format!(
                "the Controller refuses the service token in {} (upstream.{upstream}, status {status}, at {node})",
                token_file.display()
            ),
            CredentialMode::Strip | CredentialMode::Forward => format!(
                "the Controller asks for a token and gets none (upstream.{upstream}, status {status}, at {node}): credential.mode is \"strip\""
            ),
        })
    }
}
