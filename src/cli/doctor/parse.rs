//! PURE: this module parses the kernel's text formats.
//!
//! Each function receives the text of one file and returns `None` if it cannot parse the text. An
//! unknown number is better than a guessed number. The formats are described in proc(5) and in the
//! kernel's cgroup documentation. [`super::facts`] and [`super::cgroup`] are the callers.

/// A limit: a number or "unlimited".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ceiling {
    /// The limit is this number.
    At(u64),
    /// There is no limit.
    Unlimited,
}

impl Ceiling {
    /// Returns the number, or `None` if there is no limit.
    pub(super) fn bound(self) -> Option<u64> {
        match self {
            Self::At(number) => Some(number),
            Self::Unlimited => None,
        }
    }
}

/// Parses one number.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Parses exactly `COUNT` numbers, separated by white space.
pub(super) fn numbers<const COUNT: usize>(text: &str) -> Option<[u64; COUNT]> {
    let numbers: Option<Vec<u64>> = text
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect();
    numbers?.try_into().ok()
}

/// Parses a number, or `max` for "no limit", as in the files of cgroup v2.
pub(super) fn ceiling(text: &str) -> Option<Ceiling> {
    match text.trim() {
        "max" => Some(Ceiling::Unlimited),
        text => text.parse().ok().map(Ceiling::At),
    }
}

/// Parses a memory limit of cgroup v1, where "unlimited" is the largest multiple of the page size.
pub(super) fn v1_memory_limit(text: &str) -> Option<Ceiling> {
    const UNLIMITED_FROM: u64 = 1 << 62;
    number(text).map(|limit| match limit {
        UNLIMITED_FROM.. => Ceiling::Unlimited,
        _ => Ceiling::At(limit),
    })
}

/// Parses the soft and the hard limit of a line in `/proc/PID/limits`.
pub(super) fn resource_limit(text: &str, name: &str) -> Option<[Ceiling; 2]> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = rest.split_whitespace().map(|word| match word {
        "unlimited" => Some(Ceiling::Unlimited),
        _ => word.parse().ok().map(Ceiling::At),
    });
    Some([words.next()??, words.next()??])
}

/// Returns the value after `Name:` in files such as `/proc/self/status`.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// Parses a field in kibibytes and returns bytes.
pub(super) fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let kibibytes: u64 = field(text, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Parses the value of a line `name value` in files such as `memory.stat`.
pub(super) fn entry(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .and_then(number)
}

/// Returns how many numbers a list such as `0-3,8` contains.
pub(super) fn list_length(text: &str) -> Option<u32> {
    let mut length = 0_u32;
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        let count = last.checked_sub(first)?.checked_add(1)?;
        length = length.checked_add(count)?;
    }
    Some(length)
}

/// Parses the major and minor version of `/proc/sys/kernel/osrelease`.
pub(super) fn kernel_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split('.');
    let major = parts.next()?.parse().ok()?;
    let minor: String = parts
        .next()?
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Some((major, minor.parse().ok()?))
}

/// Parses the limit on processor time in `cpu.max`, in thousandths of a processor.
pub(super) fn processor_share(text: &str) -> Option<Ceiling> {
    let (quota, period) = text.trim().split_once(' ')?;
    if quota == "max" {
        return Some(Ceiling::Unlimited);
    }
    thousandths(quota.parse().ok()?, period.trim().parse().ok()?).map(Ceiling::At)
}

/// Divides a quota of processor time by its period; the result is in thousandths of a processor.
pub(super) fn thousandths(quota_us: u64, period_us: u64) -> Option<u64> {
    quota_us.checked_mul(1000)?.checked_div(period_us)
}

/// Whether a hexadecimal set of `/proc/PID/status` contains a capability.
pub(super) fn has_capability(set: &str, number: u32) -> Option<bool> {
    let set = u64::from_str_radix(set.trim(), 16).ok()?;
    Some(set.checked_shr(number).unwrap_or(0) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units
Max processes             unlimited            96365                processes
Max open files            1024                 524288               files
";

    #[test]
    fn numbers_are_parsed_whole_or_not_at_all() {
        assert_eq!(number(" 12\n"), Some(12));
        for odd in ["", "-1", "1 2", "max", "0x10", "99999999999999999999", "\0"] {
            assert_eq!(number(odd), None, "{odd:?}");
        }
        assert_eq!(numbers("1\t2 3\n"), Some([1, 2, 3]));
        assert_eq!(numbers::<3>("1 2"), None);
        assert_eq!(numbers::<3>("1 2 3 4"), None);
        assert_eq!(numbers::<2>("1 x"), None);
    }

    #[test]
    fn ceilings_parse_the_words_for_unlimited() {
        assert_eq!(ceiling("max\n"), Some(Ceiling::Unlimited));
        assert_eq!(ceiling("0\n"), Some(Ceiling::At(0)));
        assert_eq!(ceiling("maximum"), None);
        assert_eq!(ceiling(""), None);
        let all = "9223372036854771712\n";
        assert_eq!(v1_memory_limit(all), Some(Ceiling::Unlimited));
        assert_eq!(v1_memory_limit("1048576"), Some(Ceiling::At(1_048_576)));
    }

    #[test]
    fn resource_limits_are_found_by_their_name() {
        let files = resource_limit(LIMITS, "Max open files");
        assert_eq!(files, Some([Ceiling::At(1024), Ceiling::At(524_288)]));
        let processes = resource_limit(LIMITS, "Max processes");
        assert_eq!(processes, Some([Ceiling::Unlimited, Ceiling::At(96_365)]));
        assert_eq!(resource_limit(LIMITS, "Max locked memory"), None);
        assert_eq!(resource_limit("Max open files", "Max open files"), None);
        assert_eq!(resource_limit("Max open files 1", "Max open files"), None);
    }

    #[test]
    fn fields_need_their_whole_name_and_unit() {
        let text = "MemFree:  3 kB\nMemAvailable:\t 5 kB\nOdd: 7\n";
        assert_eq!(kibibytes(text, "MemAvailable"), Some(5120));
        assert_eq!(kibibytes(text, "Mem"), None);
        assert_eq!(kibibytes(text, "Odd"), None);
        assert_eq!(kibibytes("A: 99999999999999999 kB", "A"), None);
        assert_eq!(entry("anon 1\ninactive_file 9\n", "inactive_file"), Some(9));
        assert_eq!(entry("inactive_files 9\n", "inactive_file"), None);
    }

    #[test]
    fn lists_of_processors_are_counted() {
        assert_eq!(list_length("0-1\n"), Some(2));
        assert_eq!(list_length("0-3,8,10-11"), Some(7));
        for odd in ["", "3-1", "0-4294967295", "a", "1,,2", "-"] {
            assert_eq!(list_length(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn malformed_versions_shares_and_capabilities_have_no_value() {
        assert_eq!(kernel_version("6.18.44-fc-v657\n"), Some((6, 18)));
        assert_eq!(kernel_version("5.4-rc1"), Some((5, 4)));
        assert_eq!(kernel_version("six"), None);
        let half = processor_share("50000 100000\n");
        assert_eq!(half, Some(Ceiling::At(500)));
        assert_eq!(processor_share("max 100000"), Some(Ceiling::Unlimited));
        assert_eq!(processor_share("1 0"), None);
        assert_eq!(processor_share("max"), None);
        assert_eq!(has_capability("000001fffeffffff", 24), Some(false));
        assert_eq!(has_capability("000001ffffffffff", 24), Some(true));
        assert_eq!(has_capability("1", 200), Some(false));
        assert_eq!(has_capability("", 24), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,80}|[0-9 :,\\-\\n\\[\\]a-z]{0,80}") {
            let _ = number(&text);
            let _ = numbers::<3>(&text);
            let _ = ceiling(&text);
            let _ = v1_memory_limit(&text);
            let _ = resource_limit(&text, "Max open files");
            let _ = resource_limit(&format!("Max open files{text}"), "Max open files");
            let _ = kibibytes(&format!("A:{text}"), "A");
            let _ = entry(&format!("a {text}"), "a");
            let _ = list_length(&text);
            let _ = kernel_version(&text);
            let _ = processor_share(&text);
            let _ = has_capability(&text, 24);
        }

        #[test]
        fn written_numbers_parse_to_themselves(a: u64, b: u64, c: u64) {
            prop_assert_eq!(numbers(&format!("{a}\t{b} {c}\n")), Some([a, b, c]));
            prop_assert_eq!(ceiling(&format!("{a}\n")), Some(Ceiling::At(a)));
        }
    }
}
