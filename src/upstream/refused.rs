//! What an upstream says of a credential that is not the client's: the service token with `replace`, none with `strip`. That
//! it refuses this is the sidecar's fault and no client's, so it is counted, logged now and then, and shown by `/readyz`.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use http::StatusCode;

use super::connect::Address;
use super::{CredentialMode, Upstream};
use crate::sampler::Sampler;

/// The refusals of one upstream's credential.
#[derive(Debug, Default)]
pub(crate) struct CredentialRefusals {
    /// The status of the latest one; 0 since the upstream has taken the credential again.
    latest: AtomicU16,
    total: AtomicU64,
    sampler: Sampler,
}

impl CredentialRefusals {
    /// How many there were.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Nothing is known of the credential in use now.
    pub(super) fn forget(&self) {
        self.latest.store(0, Ordering::Relaxed);
    }

    /// The credential was taken. `true`: it was refused before. Who lacks the permission for what agents need may still do
    /// everything else, so only what agents need shows that this is over.
    fn end(&self, for_agents: bool) -> bool {
        let latest = self.latest.load(Ordering::Relaxed);
        let is_over = latest != 0 && (for_agents || latest != StatusCode::FORBIDDEN.as_u16());
        is_over && self.latest.compare_exchange(latest, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Upstream {
    /// Whether a reply with this status may refuse a credential that is not the client's. To be asked about replies to requests
    /// that a token was needed for; `for_agents`: heartbeats and fetches of configurations, which may fail for nothing else.
    pub(crate) fn may_refuse_credential(&self, status: StatusCode, for_agents: bool) -> bool {
        if self.config.credential == CredentialMode::Forward {
            return false;
        }
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            if self.credential_refusals.end(for_agents) {
                tracing::info!(upstream = self.name.name(), "the Controller takes the sidecar's credential again");
            }
            return false;
        }
        status == StatusCode::UNAUTHORIZED || (for_agents && status == StatusCode::FORBIDDEN)
    }

    /// Counts a refusal of the credential and logs it, unless there were many lately.
    pub(crate) fn report_refused(&self, address: &Address, status: StatusCode, request_id: &str) {
        let CredentialRefusals { latest, total, sampler } = &self.credential_refusals;
        latest.store(status.as_u16(), Ordering::Relaxed);
        total.fetch_add(1, Ordering::Relaxed);
        let Some(left_out) = sampler.admit() else { return };
        let (upstream, status) = (self.name.name(), status.as_u16());
        match &self.config.credential {
            CredentialMode::Replace { token_file } => {
                let token_file = token_file.display();
                tracing::error!(
                    upstream, %address, %token_file, status, request_id, left_out,
                    "the Controller refuses the service token: requests with good tokens get 502"
                );
            }
            CredentialMode::Strip | CredentialMode::Forward => tracing::error!(
                upstream, %address, status, request_id, left_out,
                "the Controller asks for a token and gets none, since credential.mode is \"strip\": requests with good tokens get 502"
            ),
        }
    }

    /// What is wrong with the credential, while the upstream refuses it.
    pub(crate) fn credential_problem(&self) -> Option<String> {
        let status = self.credential_refusals.latest.load(Ordering::Relaxed);
        let upstream = self.name.name();
        match &self.config.credential {
            _ if status == 0 => None,
            CredentialMode::Replace { token_file } => Some(format!(
                "the Controller refuses the service token in {} (upstream.{upstream}, status {status})",
                token_file.display()
            )),
            CredentialMode::Strip | CredentialMode::Forward => Some(format!(
                "the Controller asks for a token and gets none (upstream.{upstream}, status {status}): credential.mode is \"strip\""
            )),
        }
    }
}
