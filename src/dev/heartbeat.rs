//! The shape of a heartbeat, checked as strictly as Telegraf's own schema of it says.
//!
//! The types restate version 1 of the heartbeat schema of Telegraf 1.37 (`plugins/outputs/heartbeat/schema_v1.json`):
//! `id` and `version` are required, everything else is optional, and a property that the schema does not name is
//! refused at the top as well as in `statistics` and in each of `logs`. An optional property may be absent, but not
//! `null`.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// What an agent sends every interval.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Heartbeat {
    /// Id of the Telegraf instance as configured in the plugin.
    pub id: String,
    /// Full Telegraf version, such as `Telegraf 1.37.0`.
    pub version: String,
    /// Version of the schema of this message.
    #[serde(default, deserialize_with = "present")]
    pub schema: Option<Integer>,
    /// Seconds since 1970 of the last successful heartbeat, if the previous one failed.
    #[serde(default, deserialize_with = "present")]
    pub last: Option<Integer>,
    /// Name of the host the instance runs on.
    #[serde(default, deserialize_with = "present")]
    pub hostname: Option<String>,
    /// Where the instance has its configuration from.
    #[serde(default, deserialize_with = "present")]
    pub configurations: Option<Vec<String>>,
    /// Counts since the last successful heartbeat.
    #[serde(default, deserialize_with = "present_object")]
    pub statistics: Option<Statistics>,
    /// Log events since the last successful heartbeat.
    #[serde(default, deserialize_with = "present")]
    pub logs: Option<Vec<Object<LogEntry>>>,
    /// The instance's opinion of itself.
    #[serde(default, deserialize_with = "present")]
    pub status: Option<AgentStatus>,
}

/// Counts since the last successful heartbeat; all three are required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Statistics {
    pub errors: Integer,
    pub warnings: Integer,
    /// Metrics that reached the plugin.
    pub metrics: Integer,
}

/// One log event; all but the attributes are required.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogEntry {
    pub time: DateTime,
    pub level: Level,
    /// Where from, such as `inputs.http::alias`.
    pub source: String,
    /// An object; what is in it is not looked at.
    #[serde(default, deserialize_with = "present")]
    pub attributes: Option<BTreeMap<String, IgnoredAny>>,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum AgentStatus {
    Ok,
    Warn,
    Fail,
    Undefined,
}

/// Level of a log event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Heartbeat {
    /// Reads a heartbeat from the body of a request.
    ///
    /// # Errors
    /// What is wrong and where, for the one who sent it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<Object<Self>>(body).map(|object| object.0)
    }
}

/// An integer of any size that is of no further use; like JSON Schema, `1.0` counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Integer;

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;

        impl Visitor<'_> for Whole {
            type Value = Integer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Integer, E> {
                Ok(Integer)
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Integer, E> {
                Ok(Integer)
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Integer, E> {
                match value.fract() == 0.0 {
                    true => Ok(Integer),
                    false => Err(E::invalid_value(serde::de::Unexpected::Float(value), &self)),
                }
            }
        }

        deserializer.deserialize_any(Whole)
    }
}

/// A time in RFC 3339's form, with any number of fractional digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DateTime(pub String);

impl<'de> Deserialize<'de> for DateTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match is_rfc3339(&text) {
            true => Ok(Self(text)),
            false => Err(D::Error::custom(format_args!("`{text}` is not a time in RFC 3339 form"))),
        }
    }
}

/// RFC 3339 section 5.6. jiff reads more forms than these, so the form is checked here and only the ranges there.
fn is_rfc3339(text: &str) -> bool {
    let has_form = |text: &str, form: &[u8]| {
        text.len() == form.len()
            && text.bytes().zip(form).all(|(byte, place)| match place {
                b'0' => byte.is_ascii_digit(),
                place => byte.eq_ignore_ascii_case(place),
            })
    };
    let Some((seconds, rest)) = text.split_at_checked(19) else { return false };
    let offset = match rest.strip_prefix('.') {
        None => rest,
        Some(rest) => {
            let offset = rest.trim_start_matches(|character: char| character.is_ascii_digit());
            if offset.len() == rest.len() {
                return false; // a point without a digit
            }
            offset
        }
    };
    let is_offset = has_form(offset, b"Z")
        || ((has_form(offset, b"+00:00") || has_form(offset, b"-00:00")) && offset.get(1..3) <= Some("23"));
    // Without the fraction, of which jiff takes nine digits at most.
    is_offset
        && has_form(seconds, b"0000-00-00T00:00:00")
        && format!("{seconds}{offset}").parse::<jiff::Timestamp>().is_ok()
}

/// A JSON object. Without it, serde would also take an array with the fields' values in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// Refuses `null`, which an `Option` alone would take for absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn present_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Object::deserialize(deserializer).map(|object| Some(object.0))
}

#[cfg(test)]
mod tests;
