//! Enums whose variants have names that people and programs write: one table gives the variants, their names, and the way
//! back. And which symbols a stranger's words may have.

use std::fmt;

/// Whether a symbol in a text of a stranger's is one that is seen: neither a control character, nor one that turns the direction of
/// the text around, or is there for nobody to see.
pub(crate) fn is_plain(symbol: char) -> bool {
    !symbol.is_control()
        && !matches!(
            symbol,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffd}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Defines an enum with a name for each variant: `ALL`, `name`, `from_name` and `Display`. With a word in parentheses for
/// what the variants are, such as `("formats")`, `FromStr` too.
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident ($plural:literal) { $($body:tt)* }) => {
        $crate::words::words! { $(#[$meta])* $vis enum $name { $($body)* } }

        impl std::str::FromStr for $name {
            type Err = $crate::words::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::from_name(text).ok_or($crate::words::UnknownWord { plural: $plural, known: Self::NAMES })
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        $vis enum $name { $($(#[$doc])* $variant,)+ }

        #[allow(dead_code, reason = "not every enum is used in all these ways")]
        impl $name {
            const NAMES: &'static [&'static str] = &[$($word),+];

            /// Every one, in the order of their definition.
            $vis const ALL: [Self; Self::NAMES.len()] = [$(Self::$variant),+];

            /// As it is written.
            $vis const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The one with that name.
            $vis fn from_name(name: &str) -> Option<Self> {
                match name { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(crate) use words;

/// Has `Debug` and serde write a type as the text that it displays as, and serde read it from that.
macro_rules! as_text {
    ($name:ident) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text: std::borrow::Cow<'de, str> = serde::Deserialize::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use as_text;

/// A text that is none of the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownWord {
    /// What the names are of, such as `formats`.
    pub plural: &'static str,
    /// Every name.
    pub known: &'static [&'static str],
}

impl std::error::Error for UnknownWord {}

impl fmt::Display for UnknownWord {
    /// `the formats are "text" and "json"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} are ", self.plural)?;
        for (at, name) in self.known.iter().enumerate() {
            let before = if at == 0 {
                ""
            } else if at + 1 == self.known.len() {
                " and "
            } else {
                ", "
            };
            write!(f, "{before}{name:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    words! {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Mode ("modes") { Forward = "forward", Strip = "strip", Replace = "replace", }
    }

    #[test]
    fn names_lead_back_to_their_variants() {
        assert!(Mode::ALL.into_iter().all(|mode| mode.name().parse() == Ok(mode)));
        assert_eq!(Mode::Strip.to_string(), "strip");
        let error = "Forward".parse::<Mode>().expect_err("it is not");
        assert_eq!(error.to_string(), r#"the modes are "forward", "strip" and "replace""#);
    }
}
