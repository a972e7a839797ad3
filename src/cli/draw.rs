//! Boxes and labels on a picture.

use super::colours::{INK, colour_of};
use ab_glyph::{Font, FontRef, Glyph, PxScaleFont, ScaleFont, point};
use anyhow::{Context, Result};
use detrim::detector::{Bounds, Detection};
use detrim::image::Picture;
use image::{Rgb, RgbImage};

/// A rectangle in pixels; the ends are not part of it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Area {
    left: f32,
    top: f32,
    right: f32,
    bottom: f32,
}

/// The picture with a frame around each detection and its label and score at a corner.
pub fn draw(picture: &Picture, detections: &[Detection]) -> Result<RgbImage> {
    let (width, height) = (picture.width as u32, picture.height as u32);
    // Boxes are in pixels of the file, which may have more than are drawn on.
    let scale = [width as f32 / picture.full_size[0] as f32, height as f32 / picture.full_size[1] as f32];
    let rgb = picture.rgba.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let mut image = RgbImage::from_raw(width, height, rgb).context("the picture has fewer bytes than pixels")?;
    let font = FontRef::try_from_slice(dejavu::sans::bold()).context("the built-in font can't be read")?;
    // As large as can be read when the picture fills a screen, and no larger than a narrow picture has room for.
    let size = (width.max(height) as f32 / 45.0).min(width.min(height) as f32 / 6.0).max(13.0);
    let line = (size / 7.0).max(1.5);
    let font = font.into_scaled(size);

    let frames: Vec<Area> = detections.iter().map(|detection| frame(detection.bounds, scale, width as f32, height as f32)).collect();
    let mut labels: Vec<(Area, Vec<Glyph>)> = Vec::new();
    for (detection, frame) in detections.iter().zip(&frames) {
        let (glyphs, text_width) = line_of_text(&font, &format!("{} {:.2}", detection.label, detection.score));
        let taken: Vec<Area> = labels.iter().map(|(area, _)| *area).collect();
        labels.push((place_label(*frame, [text_width + size * 0.6, size * 1.25], [width as f32, height as f32], &taken), glyphs));
    }
    // The best come first and are drawn last, over the others.
    for (detection, frame) in detections.iter().zip(&frames).rev() {
        // A dark seam keeps a light frame visible on a light background.
        outline(&mut image, *frame, line * 1.4, INK, 0.5);
        outline(&mut image, *frame, line, colour_of(&detection.label), 1.0);
    }
    for (detection, (area, glyphs)) in detections.iter().zip(labels).rev() {
        fill(&mut image, area, colour_of(&detection.label), 1.0);
        let baseline = area.top + (area.bottom - area.top - font.height()) / 2.0 + font.ascent();
        write(&mut image, &font, glyphs, [area.left + size * 0.3, baseline], INK);
    }
    Ok(image)
}

/// The part of a box that lies in the picture.
fn frame(bounds: Bounds, [across, down]: [f32; 2], width: f32, height: f32) -> Area {
    Area {
        left: (bounds.xmin * across).clamp(0.0, width),
        top: (bounds.ymin * down).clamp(0.0, height),
        right: (bounds.xmax * across).clamp(0.0, width),
        bottom: (bounds.ymax * down).clamp(0.0, height),
    }
}

/// Above the frame if there is room, else at its top inside, else at its bottom; rather where no better detection has its label.
fn place_label(frame: Area, [width, height]: [f32; 2], [picture_width, picture_height]: [f32; 2], taken: &[Area]) -> Area {
    let left = frame.left.min(picture_width - width).max(0.0);
    let at = |top: f32| Area { left, top, right: left + width, bottom: top + height };
    let candidates = [frame.top - height, frame.top, frame.bottom - height, frame.bottom, frame.top + height];
    let fits = candidates.map(at).into_iter().filter(|area| area.top >= 0.0 && area.bottom <= picture_height);
    let mut free = fits.clone().filter(|area| !taken.iter().any(|other| overlap(area, other)));
    free.next().or_else(|| fits.clone().next()).unwrap_or_else(|| at(0.0))
}

fn overlap(a: &Area, b: &Area) -> bool {
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
}

/// Mixes a colour into a pixel, if there is such a pixel.
fn blend(image: &mut RgbImage, x: i64, y: i64, colour: [f32; 3], coverage: f32) {
    let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
    if let Some(Rgb(pixel)) = image.get_pixel_mut_checked(x, y) {
        for (old, new) in pixel.iter_mut().zip(colour) {
            *old = (f32::from(*old) + (new - f32::from(*old)) * coverage.clamp(0.0, 1.0)).round() as u8;
        }
    }
}

/// Pixels at the border are covered in part.
fn fill(image: &mut RgbImage, area: Area, colour: [f32; 3], opacity: f32) {
    let along = |place: i64, start: f32, end: f32| (end.min(place as f32 + 1.0) - start.max(place as f32)).max(0.0);
    for y in area.top.floor() as i64..area.bottom.ceil() as i64 {
        for x in area.left.floor() as i64..area.right.ceil() as i64 {
            blend(image, x, y, colour, opacity * along(x, area.left, area.right) * along(y, area.top, area.bottom));
        }
    }
}

/// A frame of `line` pixels inside the area.
fn outline(image: &mut RgbImage, area: Area, line: f32, colour: [f32; 3], opacity: f32) {
    let line = line.min((area.right - area.left) / 2.0).min((area.bottom - area.top) / 2.0);
    let (upper, lower) = (area.top + line, area.bottom - line);
    for part in [
        Area { bottom: upper, ..area },
        Area { top: lower, ..area },
        Area { top: upper, bottom: lower, right: area.left + line, ..area },
        Area { top: upper, bottom: lower, left: area.right - line, ..area },
    ] {
        fill(image, part, colour, opacity);
    }
}

/// The glyphs of a text that starts at (0, 0), and its width.
fn line_of_text(font: &PxScaleFont<FontRef>, text: &str) -> (Vec<Glyph>, f32) {
    let mut glyphs: Vec<Glyph> = Vec::new();
    let mut x = 0.0;
    for character in text.chars() {
        let mut glyph = font.scaled_glyph(character);
        if let Some(last) = glyphs.last() {
            x += font.kern(last.id, glyph.id);
        }
        glyph.position = point(x, 0.0);
        x += font.h_advance(glyph.id);
        glyphs.push(glyph);
    }
    (glyphs, x)
}

fn write(image: &mut RgbImage, font: &PxScaleFont<FontRef>, glyphs: Vec<Glyph>, [x, baseline]: [f32; 2], colour: [f32; 3]) {
    for mut glyph in glyphs {
        glyph.position += point(x, baseline);
        if let Some(outline) = font.outline_glyph(glyph) {
            let corner = outline.px_bounds().min;
            outline.draw(|dx, dy, coverage| blend(image, corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy), colour, coverage));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(label: &str, bounds: [f32; 4]) -> Detection {
        let [xmin, ymin, xmax, ymax] = bounds;
        Detection { query: 0, class: 0, id: 1, label: label.into(), score: 0.5, bounds: Bounds { xmin, ymin, xmax, ymax } }
    }

    #[test]
    fn frames_lie_at_the_box_and_the_rest_stays() {
        let picture = Picture::new(200, 150, [90, 90, 90, 255].repeat(200 * 150)).unwrap();
        // The second lies outside the picture, the third partly, the fourth is no box at all.
        let boxes = [[20.0, 40.0, 120.0, 140.0], [300.0, 300.0, 400.0, 400.0], [150.0, -50.0, 999.0, 30.0], [60.0, 90.0, 50.0, 80.0]];
        let image = draw(&picture, &boxes.map(|bounds| detection("cat", bounds))).unwrap();
        assert_eq!((image.width(), image.height()), (200, 150));
        let colour = Rgb(colour_of("cat").map(|value| value as u8));
        for (x, y) in [(20, 100), (119, 100), (70, 139)] {
            assert_eq!(*image.get_pixel(x, y), colour, "{x}, {y}");
        }
        for (x, y) in [(19, 100), (120, 100), (70, 120), (10, 10)] {
            assert_eq!(*image.get_pixel(x, y), Rgb([90; 3]), "{x}, {y}");
        }
        // The label lies above the frame and holds ink.
        assert!((20..60).flat_map(|x| (22..40).map(move |y| (x, y))).any(|(x, y)| *image.get_pixel(x, y) == Rgb(INK.map(|value| value as u8))));
    }

    #[test]
    fn boxes_are_in_pixels_of_the_file_and_a_thread_of_a_picture_is_drawn_on_too() {
        let picture = Picture { full_size: [400, 450], ..Picture::new(200, 150, [90, 90, 90, 255].repeat(200 * 150)).unwrap() };
        let image = draw(&picture, &[detection("cat", [40.0, 120.0, 240.0, 420.0])]).unwrap();
        let colour = Rgb(colour_of("cat").map(|value| value as u8));
        for (x, y) in [(20, 100), (119, 100), (70, 139)] {
            assert_eq!(*image.get_pixel(x, y), colour, "{x}, {y}");
        }
        // Letters as large as a long side asks for would be larger than a screen.
        let picture = Picture { full_size: [1, 1 << 27], ..Picture::new(1, 1 << 16, vec![90; 1 << 18]).unwrap() };
        assert_eq!(draw(&picture, &[detection("cat", [0.0, 9.0, 1.0, 1e8])]).unwrap().height(), 1 << 16);
    }

    #[test]
    fn labels_of_equal_boxes_don_t_cover_each_other() {
        let frame = Area { left: 10.0, top: 50.0, right: 90.0, bottom: 140.0 };
        let mut taken = Vec::new();
        for _ in 0..4 {
            let area = place_label(frame, [60.0, 16.0], [100.0, 150.0], &taken);
            assert!(taken.iter().all(|other| !overlap(&area, other)), "{area:?} covers one of {taken:?}");
            assert!(area.top >= 0.0 && area.bottom <= 150.0 && area.left >= 0.0 && area.right <= 100.0);
            taken.push(area);
        }
    }
}
