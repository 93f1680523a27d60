//! Media as an answer: conditions, ranges, `HEAD`, and bodies out of memory and files in bounded pieces.
//!
//! Shared by HLS media and recordings. Reads files by position on blocking threads, a piece at a time and only as fast
//! as the client takes them. Knows nothing of what the bytes mean.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::{BodySize, MessageBody, SizedStream},
    http::{
        Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web,
};
use bytes::Bytes;
use futures_util::stream::{self, Stream};

use super::{
    etag,
    problem::Problem,
    ranges::{self, Selection},
};
use crate::{hls::Chunk, media::FileRange};

/// Bytes read from a file at once.
const READ: u64 = 128 * 1024;

/// Bytes in memory handed out at once.
const SLICE: usize = 16 * 1024;

/// Media to be sent.
pub(super) struct Media {
    /// The bytes, in order.
    pub(super) chunks: Vec<Chunk>,
    /// Their number.
    pub(super) len: u64,
    /// Entity tag with its quotes.
    pub(super) etag: String,
    /// `Content-Type`.
    pub(super) content_type: &'static str,
    /// `Cache-Control`.
    pub(super) cache_control: &'static str,
    /// What else the answer says.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Answers a `GET` or `HEAD` for `media` with 200, 206, 304 or 416.
pub(super) fn respond(request: &HttpRequest, media: Media) -> HttpResponse {
    let text = |name: HeaderName| request.headers().get(name)?.to_str().ok();
    let mut answer = HttpResponseBuilder::new(StatusCode::OK);
    answer
        .insert_header((header::ETAG, media.etag.as_str()))
        .insert_header((header::CACHE_CONTROL, media.cache_control))
        .insert_header((header::ACCEPT_RANGES, "bytes"));
    for header in media.headers {
        answer.append_header(header);
    }
    if text(header::IF_NONE_MATCH).is_some_and(|tags| etag::none_match_fails(tags, &media.etag)) {
        return answer.status(StatusCode::NOT_MODIFIED).finish();
    }
    answer.content_type(media.content_type);
    // Only GET knows ranges (RFC 9110 section 14.2).
    if request.method() == Method::HEAD {
        return answer.body(SizedStream::new(
            media.len,
            stream::empty::<Result<Bytes, io::Error>>(),
        ));
    }
    let selection = text(header::RANGE)
        .filter(|_| {
            text(header::IF_RANGE).is_none_or(|tag| ranges::if_range_holds(tag, &media.etag))
        })
        .map_or(Selection::Whole, |range| ranges::select(range, media.len));
    match selection {
        Selection::Whole => match <[Chunk; 1]>::try_from(media.chunks) {
            // A part: as it is, without a stream around it.
            Ok([Chunk::Memory(bytes)]) => answer.body(Slices(bytes)),
            Ok([file]) => answer.body(body([file].into(), media.len)),
            Err(chunks) => answer.body(body(chunks.into(), media.len)),
        },
        Selection::Part { first, last } => {
            let count = last - first + 1;
            answer
                .status(StatusCode::PARTIAL_CONTENT)
                .insert_header((
                    header::CONTENT_RANGE,
                    format!("bytes {first}-{last}/{}", media.len),
                ))
                .body(body(cut(media.chunks, first, count), count))
        }
        Selection::Unsatisfiable => {
            let problem = Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!(
                    "the range lies outside of the {} bytes there are",
                    media.len
                ),
            );
            let mut response = problem.response();
            if let Ok(value) = HeaderValue::from_str(&format!("bytes */{}", media.len)) {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            response
        }
    }
}

/// The `count` bytes from `first` on.
fn cut(chunks: Vec<Chunk>, mut first: u64, mut count: u64) -> VecDeque<Chunk> {
    let mut selected = VecDeque::new();
    for chunk in chunks {
        let len = chunk.len();
        if first >= len {
            first -= len;
            continue;
        }
        let take = count.min(len - first);
        if take == 0 {
            break;
        }
        selected.push_back(match chunk {
            Chunk::Memory(bytes) => {
                // Both lie within a length that is a usize.
                let start = usize::try_from(first).unwrap_or(usize::MAX);
                let end = usize::try_from(first + take).unwrap_or(usize::MAX);
                Chunk::Memory(bytes.slice(start..end))
            }
            Chunk::File(range) => Chunk::File(FileRange {
                offset: range.offset + first,
                len: take,
                ..range
            }),
        });
        first = 0;
        count -= take;
    }
    selected
}

/// Bytes that are handed out in slices. actix-web copies what it is given into a buffer of the connection that grows to
/// hold it and stays; with slices it stays small, whatever the size of a part.
struct Slices(Bytes);

impl MessageBody for Slices {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0.len() as u64)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let count = self.0.len().min(SLICE);
        Poll::Ready((count > 0).then(|| Ok(self.0.split_to(count))))
    }
}

fn body(
    chunks: VecDeque<Chunk>,
    len: u64,
) -> SizedStream<impl Stream<Item = Result<Bytes, io::Error>> + 'static> {
    SizedStream::new(len, Box::pin(pieces(chunks)))
}

fn pieces(chunks: VecDeque<Chunk>) -> impl Stream<Item = Result<Bytes, io::Error>> {
    stream::unfold(chunks, |mut chunks| async move {
        match chunks.pop_front()? {
            Chunk::Memory(mut bytes) => {
                let slice = bytes.split_to(bytes.len().min(SLICE));
                if !bytes.is_empty() {
                    chunks.push_front(Chunk::Memory(bytes));
                }
                Some((Ok(slice), chunks))
            }
            Chunk::File(range) => {
                let count = range.len.min(READ);
                let (file, offset) = (Arc::clone(&range.file), range.offset);
                let read = web::block(move || read(&file, offset, count))
                    .await
                    .unwrap_or_else(|error| Err(io::Error::other(error)));
                match read {
                    Ok(bytes) => {
                        if range.len > count {
                            chunks.push_front(Chunk::File(FileRange {
                                offset: offset + count,
                                len: range.len - count,
                                ..range
                            }));
                        }
                        Some((Ok(bytes), chunks))
                    }
                    Err(error) => {
                        // The head is sent: cutting the connection is the only way left to say so.
                        tracing::warn!(%error, offset, count, "media cannot be read back");
                        Some((Err(error), VecDeque::new()))
                    }
                }
            }
        }
    })
}

fn read(file: &std::fs::File, offset: u64, count: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(count).map_err(io::Error::other)?];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::{body::to_bytes, test::TestRequest};
    use proptest::prelude::*;
    use std::{future::poll_fn, io::Write, pin::pin};

    fn chunks(sizes: &[(bool, usize)]) -> (Vec<Chunk>, Vec<u8>) {
        let mut all = Vec::new();
        let mut chunks = Vec::new();
        for &(in_file, size) in sizes {
            let bytes: Vec<u8> = (0..size)
                .map(|i| u8::try_from((all.len() + i) % 251).unwrap())
                .collect();
            all.extend_from_slice(&bytes);
            chunks.push(if in_file {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(b"before").unwrap();
                file.write_all(&bytes).unwrap();
                Chunk::File(FileRange {
                    file: Arc::new(file),
                    offset: 6,
                    len: size as u64,
                })
            } else {
                Chunk::Memory(bytes.into())
            });
        }
        (chunks, all)
    }

    fn media(sizes: &[(bool, usize)]) -> (Media, Vec<u8>) {
        let (chunks, all) = chunks(sizes);
        let media = Media {
            chunks,
            len: all.len() as u64,
            etag: "\"tag\"".to_owned(),
            content_type: "video/mp4",
            cache_control: "no-cache",
            headers: Vec::new(),
        };
        (media, all)
    }

    #[actix_web::test]
    async fn the_whole_comes_out_of_memory_and_files() {
        let (media, all) = media(&[(true, 300_000), (false, 10), (true, 1)]);
        let response = respond(&TestRequest::get().to_http_request(), media);
        assert_eq!(response.status(), 200);
        assert_eq!(to_bytes(response.into_body()).await.unwrap(), all);
    }

    #[actix_web::test]
    async fn memory_comes_in_slices() {
        for sizes in [vec![40_000], vec![40_000, 5, 20_000]] {
            let sizes: Vec<_> = sizes.into_iter().map(|size| (false, size)).collect();
            let (media, all) = media(&sizes);
            let response = respond(&TestRequest::get().to_http_request(), media);
            let mut body = pin!(response.into_body());
            let mut got = Vec::new();
            while let Some(slice) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
                let slice = slice.unwrap();
                assert!(!slice.is_empty() && slice.len() <= SLICE, "{}", slice.len());
                got.extend_from_slice(&slice);
            }
            assert_eq!(got, all);
        }
    }

    #[actix_web::test]
    async fn a_file_that_is_too_short_breaks_the_answer_off() {
        let range = FileRange {
            file: Arc::new(tempfile::tempfile().unwrap()),
            offset: 0,
            len: 10,
        };
        let (mut media, _) = media(&[]);
        media.chunks = vec![Chunk::File(range)];
        media.len = 10;
        let response = respond(&TestRequest::get().to_http_request(), media);
        assert!(to_bytes(response.into_body()).await.is_err());
    }

    #[actix_web::test]
    async fn a_condition_comes_before_a_range() {
        let request = TestRequest::get()
            .insert_header((header::IF_NONE_MATCH, "\"tag\""))
            .insert_header((header::RANGE, "bytes=0-1"))
            .to_http_request();
        let response = respond(&request, media(&[(false, 10)]).0);
        assert_eq!(response.status(), 304);
        assert_eq!(response.headers().get(header::ETAG).unwrap(), "\"tag\"");
        assert!(to_bytes(response.into_body()).await.unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn a_cut_is_a_slice(sizes in proptest::collection::vec(0..9_usize, 0..6), first in 0..40_u64, count in 0..40_u64) {
            let sizes: Vec<_> = sizes.into_iter().map(|size| (false, size)).collect();
            let (chunks, all) = chunks(&sizes);
            let got: Vec<u8> = cut(chunks, first, count)
                .into_iter()
                .flat_map(|chunk| match chunk {
                    Chunk::Memory(bytes) => bytes.to_vec(),
                    Chunk::File(_) => panic!("no files here"),
                })
                .collect();
            let start = usize::try_from(first).unwrap().min(all.len());
            let end = (start + usize::try_from(count).unwrap()).min(all.len());
            prop_assert_eq!(&got[..], &all[start..end]);
        }
    }
}
