//! Delivery directives (RFC 8216bis section 6.2.5) out of a request's query; knows nothing of any playlist.

use super::HlsError;

/// What a request for a media playlist asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockingReload {
    /// `_HLS_msn`: answer when the playlist has this media sequence number.
    pub msn: Option<u64>,
    /// `_HLS_part`: answer when the playlist has this part of that segment, counted from 0. Never without `msn`.
    pub part: Option<u64>,
    /// `_HLS_skip=YES` (or `v2`): a playlist delta update is welcome.
    pub skip: bool,
}

impl BlockingReload {
    /// Reads the query of a request, without its `?`. Parameters that are no delivery directives are somebody else's
    /// and ignored.
    ///
    /// # Errors
    /// [`HlsError::BadRequest`] for a directive that is repeated, not a decimal number, of an unknown value or name
    /// (names that begin with `_HLS_` are reserved, section 6.2.5), and for a part without a segment.
    pub fn parse(query: &str) -> Result<Self, HlsError> {
        let mut reload = Self::default();
        let mut skip = None;
        for parameter in query.split('&') {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "_HLS_msn" => set_once(&mut reload.msn, name, number(name, value)?)?,
                "_HLS_part" => set_once(&mut reload.part, name, number(name, value)?)?,
                "_HLS_skip" if matches!(value, "YES" | "v2") => set_once(&mut skip, name, true)?,
                "_HLS_skip" => {
                    return Err(HlsError::BadRequest("_HLS_skip is YES or v2".to_owned()));
                }
                _ if name.starts_with("_HLS_") => {
                    return Err(HlsError::BadRequest(
                        "of the names that begin with _HLS_ only _HLS_msn, _HLS_part and _HLS_skip are known"
                            .to_owned(),
                    ));
                }
                _ => {}
            }
        }
        if reload.part.is_some() && reload.msn.is_none() {
            return Err(HlsError::BadRequest(
                "_HLS_part needs _HLS_msn beside it".to_owned(),
            ));
        }
        reload.skip = skip.is_some();
        Ok(reload)
    }
}

fn set_once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), HlsError> {
    if slot.replace(value).is_some() {
        return Err(HlsError::BadRequest(format!("{name} is given twice")));
    }
    Ok(())
}

fn number(name: &str, value: &str) -> Result<u64, HlsError> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| value.parse().ok())
        .flatten()
        .ok_or_else(|| HlsError::BadRequest(format!("{name} is not a decimal number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn directives_are_read_among_other_parameters() {
        let reload = BlockingReload::parse("token=a%26b&_HLS_msn=12&x&_HLS_part=3&_HLS_skip=YES");
        assert_eq!(
            reload,
            Ok(BlockingReload {
                msn: Some(12),
                part: Some(3),
                skip: true
            })
        );
        assert_eq!(BlockingReload::parse(""), Ok(BlockingReload::default()));
        assert!(BlockingReload::parse("_HLS_skip=v2").is_ok_and(|r| r.skip));
    }

    #[test]
    fn h18_junk_is_refused() {
        for query in [
            "_HLS_part=1",
            "_HLS_msn=",
            "_HLS_msn",
            "_HLS_msn=-1",
            "_HLS_msn=+1",
            "_HLS_msn=1.5",
            "_HLS_msn=abc",
            "_HLS_msn=18446744073709551616",
            "_HLS_msn=1&_HLS_msn=1",
            "_HLS_msn=1&_HLS_part=x",
            "_HLS_skip=NO",
            "_HLS_skip=YES&_HLS_skip=YES",
            "_HLS_push=1",
        ] {
            assert!(
                matches!(BlockingReload::parse(query), Err(HlsError::BadRequest(_))),
                "{query:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_query_panics_and_a_part_never_stands_alone(query in "([&=?%a-z0-9]|_HLS_(msn|part|skip)){0,12}") {
            if let Ok(reload) = BlockingReload::parse(&query) {
                prop_assert!(reload.part.is_none() || reload.msn.is_some());
            }
        }
    }
}
