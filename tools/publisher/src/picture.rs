//! The test picture, painted in Rust so that its flash is exact to the frame.
//!
//! A dark field with colour bars, a bouncing ball, a large clock, a frame counter, a panel that is white during the
//! flash at the start of each second of media time, a strip of 32 black or white blocks that carries the clock for
//! machines, and optionally noise that gives an encoder as much to do as a camera does. Knows no encoder and no clock of its own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long flash and beep last.
pub const FLASH: Duration = Duration::from_millis(100);
/// Blocks of the strip along the lower edge, most significant bit first, white = 1: milliseconds since the Unix epoch
/// modulo 2^32 at which the picture was made (or the media time in milliseconds where there is no clock).
pub const STRIP_BITS: u32 = 32;

const BLACK: u8 = 16;
const FIELD: u8 = 34;
const DARK: u8 = 44;
const WHITE: u8 = 235;

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// Left edge.
    pub x: usize,
    /// Upper edge.
    pub y: usize,
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
}

/// Where the flash is in a picture of this size; nothing else is ever drawn there.
pub const fn flash_rect(width: usize, height: usize) -> Rect {
    Rect {
        x: width * 11 / 16,
        y: height / 4,
        width: width / 4,
        height: height / 2,
    }
}

/// Where the strip of clock blocks is; each block is `width / 32` wide.
pub const fn strip_rect(width: usize, height: usize) -> Rect {
    Rect {
        x: 0,
        y: height - height / 20,
        width: width / 32 * 32,
        height: height / 20,
    }
}

/// Paints pictures of one size.
#[derive(Clone, Debug)]
pub struct Painter {
    width: usize,
    height: usize,
    fps: u32,
    noise: bool,
    background: Vec<u8>,
}

impl Painter {
    /// Pictures of even `width` and `height`, `fps` pictures a second, with a panel of noise if asked for.
    pub fn new(width: u32, height: u32, fps: u32, noise: bool) -> Self {
        let (width, height) = (width as usize, height as usize);
        let mut painter = Self {
            width,
            height,
            fps,
            noise,
            background: Vec::new(),
        };
        painter.background = painter.paint_background();
        painter
    }

    /// Whether the picture is white in [`flash_rect`]: from the frame at each full second of media time on.
    pub fn is_flash(&self, frame: u64) -> bool {
        let into_second = Duration::from_secs(frame % u64::from(self.fps)) / self.fps;
        into_second < FLASH
    }

    /// Picture number `frame` as I420 into `out` (length [`Painter::len`]). `clock` is shown if given, media time otherwise.
    pub fn paint(&self, frame: u64, clock: Option<SystemTime>, out: &mut [u8]) {
        out.copy_from_slice(&self.background);
        let media = Duration::from_secs(frame) / self.fps;
        let shown = clock.map_or(media, |clock| {
            clock.duration_since(UNIX_EPOCH).unwrap_or_default()
        });
        let mut canvas = Canvas {
            width: self.width,
            luma: &mut out[..self.width * self.height],
        };
        if self.noise {
            self.paint_noise(frame, &mut canvas);
        }
        self.paint_ball(frame, &mut canvas);
        self.paint_text(frame, shown, &mut canvas);
        if self.is_flash(frame) {
            canvas.fill(flash_rect(self.width, self.height), WHITE);
        }
        let strip = strip_rect(self.width, self.height);
        let block = strip.width / STRIP_BITS as usize;
        let bits = shown.as_millis() as u32;
        for bit in 0..STRIP_BITS {
            let white = bits & (1 << (STRIP_BITS - 1 - bit)) != 0;
            canvas.fill(
                Rect {
                    x: bit as usize * block,
                    width: block,
                    ..strip
                },
                if white { WHITE } else { BLACK },
            );
        }
    }

    /// Bytes of one picture.
    pub fn len(&self) -> usize {
        self.width * self.height * 3 / 2
    }

    /// True only for a picture without pixels.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn paint_background(&self) -> Vec<u8> {
        // 75 % colour bars, BT.709 limited range.
        const BARS: [(u8, u8, u8); 7] = [
            (180, 128, 128),
            (168, 44, 136),
            (145, 147, 44),
            (134, 63, 52),
            (63, 193, 204),
            (51, 109, 212),
            (28, 212, 120),
        ];
        let (width, height) = (self.width, self.height);
        let mut picture = vec![128; self.len()];
        picture[..width * height].fill(FIELD);
        let (luma, chroma) = picture.split_at_mut(width * height);
        let (blue, red) = chroma.split_at_mut(width * height / 4);
        for y in 0..height / 6 {
            for x in 0..width {
                let (l, u, v) = BARS[x * BARS.len() / width];
                luma[y * width + x] = l;
                blue[y / 2 * (width / 2) + x / 2] = u;
                red[y / 2 * (width / 2) + x / 2] = v;
            }
        }
        let mut canvas = Canvas { width, luma };
        canvas.fill(flash_rect(width, height), DARK);
        picture
    }

    fn paint_noise(&self, frame: u64, canvas: &mut Canvas<'_>) {
        let (x, y) = (self.width / 16, self.height * 5 / 8);
        let (width, height) = (self.width * 9 / 16, self.height / 5);
        let mut state = frame.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for row in y..y + height {
            let line = &mut canvas.luma[row * self.width + x..][..width];
            for pixels in line.chunks_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                for (pixel, byte) in pixels.iter_mut().zip(state.to_le_bytes()) {
                    *pixel = 64 + byte / 2;
                }
            }
        }
    }

    fn paint_ball(&self, frame: u64, canvas: &mut Canvas<'_>) {
        let radius = self.height / 18;
        let (left, right) = (radius, self.width * 11 / 16 - radius - 1);
        let (top, bottom) = (self.height / 6 + radius, self.height * 19 / 20 - radius - 1);
        let step = (self.width / 3) as u64;
        let x = left + bounce(frame * step / u64::from(self.fps), right - left);
        let y = top + bounce(frame * step * 2 / 3 / u64::from(self.fps), bottom - top);
        canvas.disc(x, y, radius, 200);
    }

    fn paint_text(&self, frame: u64, shown: Duration, canvas: &mut Canvas<'_>) {
        let seconds = shown.as_secs();
        let clock = format!(
            "{:02}:{:02}:{:02}.{:03}",
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60,
            shown.subsec_millis()
        );
        let digit = self.width / 24;
        canvas.text(&clock, self.width / 16, self.height / 4, digit, WHITE);
        canvas.text(
            &format!("{frame:08}"),
            self.width / 16,
            self.height / 2,
            digit / 2,
            160,
        );
    }
}

/// Position of something that moves `distance` and is thrown back at both ends of `range`.
fn bounce(distance: u64, range: usize) -> usize {
    let range = range.max(1) as u64;
    let position = distance % (2 * range);
    position.min(2 * range - position) as usize
}

struct Canvas<'a> {
    width: usize,
    luma: &'a mut [u8],
}

impl Canvas<'_> {
    fn fill(&mut self, rect: Rect, value: u8) {
        for y in rect.y..rect.y + rect.height {
            let start = y * self.width + rect.x;
            if let Some(line) = self.luma.get_mut(start..start + rect.width) {
                line.fill(value);
            }
        }
    }

    fn disc(&mut self, x: usize, y: usize, radius: usize, value: u8) {
        for dy in 0..=radius {
            let half = ((radius * radius - dy * dy) as f64).sqrt() as usize;
            for row in [y - dy, y + dy] {
                self.fill(
                    Rect {
                        x: x - half,
                        y: row,
                        width: 2 * half + 1,
                        height: 1,
                    },
                    value,
                );
            }
        }
    }

    /// Seven-segment digits, `size` wide and twice as high; `:` and `.` take half the width.
    fn text(&mut self, text: &str, x: usize, y: usize, size: usize, value: u8) {
        // Segments of 0..=9 as bits: top, upper left, upper right, middle, lower left, lower right, bottom.
        const DIGITS: [u8; 10] = [
            0b111_0111, 0b010_0100, 0b101_1101, 0b110_1101, 0b010_1110, 0b110_1011, 0b111_1011,
            0b010_0101, 0b111_1111, 0b110_1111,
        ];
        let stroke = (size / 6).max(2);
        let mut left = x;
        for character in text.chars() {
            let middle = y + size - stroke / 2;
            let bottom = y + 2 * size - stroke;
            if let Some(digit) = character.to_digit(10) {
                let far = left + size - stroke;
                let segments = [
                    Rect {
                        x: left,
                        y,
                        width: size,
                        height: stroke,
                    },
                    Rect {
                        x: left,
                        y,
                        width: stroke,
                        height: size,
                    },
                    Rect {
                        x: far,
                        y,
                        width: stroke,
                        height: size,
                    },
                    Rect {
                        x: left,
                        y: middle,
                        width: size,
                        height: stroke,
                    },
                    Rect {
                        x: left,
                        y: y + size,
                        width: stroke,
                        height: size,
                    },
                    Rect {
                        x: far,
                        y: y + size,
                        width: stroke,
                        height: size,
                    },
                    Rect {
                        x: left,
                        y: bottom,
                        width: size,
                        height: stroke,
                    },
                ];
                for (bit, segment) in segments.into_iter().enumerate() {
                    if DIGITS[digit as usize] & (1 << bit) != 0 {
                        self.fill(segment, value);
                    }
                }
                left += size + size / 3;
            } else {
                self.fill(
                    Rect {
                        x: left,
                        y: bottom,
                        width: stroke,
                        height: stroke,
                    },
                    value,
                );
                if character == ':' {
                    self.fill(
                        Rect {
                            x: left,
                            y: y + size / 2,
                            width: stroke,
                            height: stroke,
                        },
                        value,
                    );
                }
                left += size / 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luma(picture: &[u8], width: usize, rect: Rect) -> impl Iterator<Item = u8> + '_ {
        (rect.y..rect.y + rect.height)
            .flat_map(move |y| picture[y * width + rect.x..][..rect.width].iter().copied())
    }

    #[test]
    fn flashes_exactly_in_the_first_tenth_of_each_second() {
        for (width, height, fps) in [(1280, 720, 30), (640, 360, 25), (320, 180, 60)] {
            let painter = Painter::new(width, height, fps, true);
            let mut picture = vec![0; painter.len()];
            let rect = flash_rect(width as usize, height as usize);
            for frame in 0..=u64::from(fps) * 2 {
                painter.paint(frame, None, &mut picture);
                let white = frame % u64::from(fps) < u64::from(fps.div_ceil(10));
                let expected = if white { WHITE } else { DARK };
                assert!(
                    luma(&picture, width as usize, rect).all(|value| value == expected),
                    "frame {frame}"
                );
            }
        }
    }

    #[test]
    fn the_strip_carries_the_clock() {
        let (width, height) = (1280, 720);
        let painter = Painter::new(width, height, 30, false);
        let mut picture = vec![0; painter.len()];
        let clock = UNIX_EPOCH + Duration::from_millis(1_795_000_123_456);
        painter.paint(7, Some(clock), &mut picture);
        let strip = strip_rect(1280, 720);
        let block = strip.width / 32;
        let read = (0..32).fold(0u32, |value, bit| {
            let centre = (strip.y + strip.height / 2) * 1280 + bit * block + block / 2;
            (value << 1) | u32::from(picture[centre] > 128)
        });
        assert_eq!(read, 1_795_000_123_456_u64 as u32);
    }

    #[test]
    fn moves() {
        let painter = Painter::new(320, 180, 30, false);
        let (mut first, mut second) = (vec![0; painter.len()], vec![0; painter.len()]);
        painter.paint(10, None, &mut first);
        painter.paint(11, None, &mut second);
        assert_ne!(first, second);
    }
}
