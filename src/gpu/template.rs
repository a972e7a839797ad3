//! Makes WGSL from a kernel's template: loops are unrolled and variants chosen as text, which leaves nothing to a driver's wit.
//!
//! `$NAME` stands for a constant's value, and `$[A*B+C]` for that of a sum of products. `#if NAME` … `#else` … `#end` keeps the first part where the constant isn't zero
//! (`#if !NAME`: where it is). `#for i in NAME` … `#end` repeats its lines with `$i` from 0 up to the constant.

/// A constant that a template refers to.
pub type Constant = (&'static str, u32);

/// # Panics
/// If the template is malformed: they are part of this program.
pub fn expand(template: &str, constants: &[Constant]) -> String {
    let mut names: Vec<(&str, u32)> = constants.to_vec();
    // Long names first: `$TMX` must not be taken for `$TM`.
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    let lines: Vec<&str> = template.lines().collect();
    let mut out = String::with_capacity(template.len() * 2);
    block(&lines, &names, &mut out);
    out
}

fn block<'a>(mut lines: &[&'a str], names: &[(&'a str, u32)], out: &mut String) {
    while let [line, rest @ ..] = lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["#if", condition] => {
                let (name, wanted) = condition.strip_prefix('!').map_or((condition, true), |name| (name, false));
                let (then, otherwise, after) = branches(rest);
                block(if (value(names, name) != 0) == wanted { then } else { otherwise }, names, out);
                lines = after;
            }
            ["#for", variable, "in", count] => {
                let (body, _, after) = branches(rest);
                let count = count.parse().unwrap_or_else(|_| value(names, count));
                for i in 0..count {
                    let names: Vec<_> = [(variable, i)].into_iter().chain(names.iter().copied()).collect();
                    block(body, &names, out);
                }
                lines = after;
            }
            _ => {
                out.push_str(&fill(line, names));
                out.push('\n');
                lines = rest;
            }
        }
    }
}

/// The line with every `$…` replaced.
fn fill(line: &str, names: &[(&str, u32)]) -> String {
    let mut parts = line.split("$[");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (sum, rest) = part.split_once(']').unwrap_or_else(|| panic!("a ] is missing in: {line}"));
        let product = |product: &str| product.split('*').map(|name| value(names, name)).product::<u32>();
        filled += &format!("{}{rest}", sum.split('+').map(product).sum::<u32>());
    }
    for (name, value) in names {
        if filled.contains('$') {
            filled = filled.replace(&format!("${name}"), &value.to_string());
        }
    }
    assert!(!filled.contains('$'), "nothing is known about a name in: {filled}");
    filled
}

fn value(names: &[(&str, u32)], name: &str) -> u32 {
    names.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("the template's {name} has no value")).1
}

/// Lines up to the matching `#else` and `#end`, and those after it.
fn branches<'l, 'a>(lines: &'l [&'a str]) -> (&'l [&'a str], &'l [&'a str], &'l [&'a str]) {
    let (mut depth, mut middle) = (0, None);
    for (i, line) in lines.iter().enumerate() {
        match line.split_whitespace().next() {
            Some("#if" | "#for") => depth += 1,
            Some("#else") if depth == 0 => middle = Some(i),
            Some("#end") if depth == 0 => {
                let otherwise = middle.map_or(&lines[..0], |m| &lines[m + 1..i]);
                return (&lines[..middle.unwrap_or(i)], otherwise, &lines[i + 1..]);
            }
            Some("#end") => depth -= 1,
            _ => {}
        }
    }
    panic!("a template lacks an #end")
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn chooses_unrolls_and_replaces() {
        let template = "#for i in N\n#if HALF\nh$i = $NX;\n#else\nf$i;\n#end\n#end\n#if !HALF\nplain\n#end";
        assert_eq!(expand(template, &[("N", 2), ("HALF", 1), ("NX", 7)]), "h0 = 7;\nh1 = 7;\n");
        assert_eq!(expand(template, &[("N", 1), ("HALF", 0), ("NX", 7)]), "f0;\nplain\n");
    }

    #[test]
    fn loops_nest() {
        assert_eq!(expand("#for i in 2\n#for j in 2\n$i$j\n#end\n#end", &[]), "00\n01\n10\n11\n");
        assert_eq!(expand("#for i in 2\nx$[i*STEP+N] = $i;\n#end", &[("STEP", 3), ("N", 4)]), "x4 = 0;\nx7 = 1;\n");
    }
}
