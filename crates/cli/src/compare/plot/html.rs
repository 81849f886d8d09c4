//! A page with the figures and the tables.

use super::Sheet;
use super::svg::escaped;
use crate::compare::table;

const STYLE: &str = "\
:root{color-scheme:light dark}
body{margin:2rem auto;padding:0 1rem;max-width:58rem;font-family:system-ui,'Liberation Sans','DejaVu Sans',sans-serif;line-height:1.5;background:#ffffff;color:#1f2328}
figure{margin:1rem 0 2rem;overflow-x:auto}
figure svg{max-width:100%;min-width:44rem;height:auto}
pre{overflow-x:auto;font-size:.8rem;line-height:1.35}
@media (prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}}
";

/// The page. The figures of each sheet are those of `figures` at its place.
pub(super) fn page(sheets: &[Sheet<'_>], figures: &[String]) -> String {
    let names: Vec<&str> = sheets.iter().map(|sheet| sheet.name).collect();
    let title = escaped(&format!("surefault compare: {}", names.join(", ")));
    let legend = escaped(table::LEGEND);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <p>{legend}</p>\n"
    );
    for (sheet, figures) in sheets.iter().zip(figures) {
        let name = escaped(sheet.name);
        let table = escaped(&table::text(sheet.played, sheet.seeds));
        page.push_str(&format!(
            "<h2>{name}</h2>\n<pre>{table}</pre>\n<figure>\n{figures}</figure>\n"
        ));
    }
    page.push_str("</body>\n</html>\n");
    page
}
