//! Handshakes of listeners that fail: counted by reason, and said to the operator.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::sampler::Sampler;
use crate::words::words;

words! {
    /// Why a client and a listener did not come to terms.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum HandshakeFailure {
        /// It is HTTP without TLS.
        PlainHttp = "plain_http",
        /// It is something else than TLS.
        NotTls = "not_tls",
        /// No version, cipher or protocol that both speak.
        Incompatible = "incompatible",
        /// A certificate is required, and the client has none.
        NoCertificate = "no_certificate",
        /// The client's certificate is by an authority that is not trusted here.
        UnknownCa = "unknown_ca",
        /// The client's certificate is past its end, or before its beginning.
        CertificateExpired = "certificate_expired",
        /// The client's certificate was revoked, or nothing current says that it was not.
        CertificateRevoked = "certificate_revoked",
        /// The client's certificate is wrong in another way.
        BadCertificate = "bad_certificate",
        /// The client does not trust the listener's certificate, or refuses it for another reason.
        RefusedByClient = "refused_by_client",
        /// The client closed in the midst of it.
        Closed = "closed",
        /// It was not over in time.
        Timeout = "timeout",
        /// Anything else.
        Other = "other",
    }
}

impl HandshakeFailure {
    /// For the operator: what it means.
    const fn meaning(self) -> &'static str {
        match self {
            Self::PlainHttp => "plain HTTP was sent to a TLS listener: the client has to use https",
            Self::NotTls => "what was sent is not TLS",
            Self::Incompatible => "no version, cipher or protocol that both sides speak",
            Self::NoCertificate => "the client showed no certificate, which tls.client_ca requires",
            Self::UnknownCa => "the client's certificate is by an authority that is not in tls.client_ca",
            Self::CertificateExpired => "the client's certificate is not valid at this time",
            Self::CertificateRevoked => {
                "the client's certificate was revoked, or tls.client_crl has no current list for it"
            }
            Self::BadCertificate => "the client's certificate cannot be used",
            Self::RefusedByClient => {
                "the client does not accept this listener's certificate: see its tls_ca and the name it connects to"
            }
            Self::Closed => "the client closed the connection during the handshake",
            Self::Timeout => "the handshake took too long",
            Self::Other => "the handshake failed",
        }
    }

    /// `first` is the first byte that the client sent.
    fn of(error: &io::Error, first: u8) -> Self {
        let source = error.get_ref().and_then(|source| source.downcast_ref::<Error>());
        match source {
            None if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            None => Self::Closed,
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) if first.is_ascii_uppercase() => {
                Self::PlainHttp
            }
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Self::NotTls,
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => Self::Incompatible,
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::InvalidCertificate(certificate)) => match certificate {
                CertificateError::UnknownIssuer => Self::UnknownCa,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::CertificateExpired,
                CertificateError::Revoked
                | CertificateError::UnknownRevocationStatus
                | CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. } => Self::CertificateRevoked,
                _ => Self::BadCertificate,
            },
            // By whoever it is signed: not by the authority of this certificate.
            Some(Error::InvalidCertRevocationList(_)) => Self::CertificateRevoked,
            Some(Error::AlertReceived(alert)) => match alert {
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity
                | AlertDescription::NoApplicationProtocol => Self::Incompatible,
                _ => Self::RefusedByClient,
            },
            Some(_) => Self::Other,
        }
    }
}

/// Handshakes that failed, over all listeners and workers.
#[derive(Debug)]
pub(crate) struct Handshakes {
    totals: [AtomicU64; HandshakeFailure::ALL.len()],
    /// One for each reason, so that what is frequent does not hide what is rare.
    logs: [Sampler; HandshakeFailure::ALL.len()],
}

impl Default for Handshakes {
    fn default() -> Self {
        Self { totals: Default::default(), logs: std::array::from_fn(|_| Sampler::default()) }
    }
}

impl Handshakes {
    /// How many there were.
    pub(crate) fn total(&self, failure: HandshakeFailure) -> u64 {
        self.totals[failure as usize].load(Ordering::Relaxed)
    }

    /// Counts one, and says so, unless that was said often lately. `first` is the first byte that the client sent: one that
    /// sent nothing at all only looked whether anybody listens.
    pub(crate) fn failed(&self, address: IpAddr, error: &io::Error, first: u8) {
        let failure = HandshakeFailure::of(error, first);
        self.totals[failure as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.logs[failure as usize].admit() {
            tracing::info!(
                %address, reason = failure.name(), problem = failure.meaning(), %error, left_out,
                "TLS handshake failed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::CertRevocationListError;

    use super::*;

    #[test]
    fn reasons_are_told_apart() {
        let of = |error: Error, first| HandshakeFailure::of(&io::Error::new(io::ErrorKind::InvalidData, error), first);
        let not_tls = || Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(of(not_tls(), b'G'), HandshakeFailure::PlainHttp);
        assert_eq!(of(not_tls(), 0), HandshakeFailure::NotTls);
        assert_eq!(of(Error::InvalidCertificate(CertificateError::Revoked), 22), HandshakeFailure::CertificateRevoked);
        let forged = Error::InvalidCertRevocationList(CertRevocationListError::BadSignature);
        assert_eq!(of(forged, 22), HandshakeFailure::CertificateRevoked);
        assert_eq!(of(Error::AlertReceived(AlertDescription::UnknownCA), 22), HandshakeFailure::RefusedByClient);
        assert_eq!(of(Error::DecryptError, 22), HandshakeFailure::Other);
        assert_eq!(HandshakeFailure::of(&io::ErrorKind::TimedOut.into(), 22), HandshakeFailure::Timeout);
        assert_eq!(HandshakeFailure::of(&io::ErrorKind::UnexpectedEof.into(), 22), HandshakeFailure::Closed);
    }

    #[test]
    fn what_is_frequent_hides_nothing_else() {
        let (handshakes, peer) = (Handshakes::default(), IpAddr::from([192, 0, 2, 1]));
        (0..100).for_each(|_| handshakes.failed(peer, &io::ErrorKind::UnexpectedEof.into(), 22));
        assert_eq!(handshakes.total(HandshakeFailure::Closed), 100);
        assert_eq!(handshakes.logs[HandshakeFailure::Closed as usize].admit(), None);
        assert_eq!(handshakes.logs[HandshakeFailure::Timeout as usize].admit(), Some(0));
    }
}
