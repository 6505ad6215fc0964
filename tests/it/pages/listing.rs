//! Sorting, searching and paging.

use super::*;

/// What the first column says, from the top.
async fn descriptions(browser: &Browser) -> Vec<String> {
    let found = browser.script("return [...document.querySelectorAll('.title a')].map(link => link.textContent)").await;
    found.as_array().expect("a list").iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn a_list_is_sorted_by_its_heads_and_paged_both_ways() {
    let site = Site::start().await;
    site.registry.store().record(&[]).await.expect("records");
    let mut tokens = Vec::new();
    for number in 0..30 {
        tokens.push(token_called(&site, "olga", &format!("rack {number:02}"), PermissionSet::TELEGRAF_AGENT).await);
    }
    used_by(&site, tokens[7].id, &["rack-7"]).await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.go("/tokens?text=rack").await;
    browser.says("nav[aria-label=Pages]", "1–25 of 30").await;
    assert_eq!(browser.count("a[rel=prev]").await, 0);
    browser.click("a[rel=next]").await;
    browser.says("nav[aria-label=Pages]", "26–30 of 30").await;
    assert_eq!(descriptions(&browser).await, ["rack 04", "rack 03", "rack 02", "rack 01", "rack 00"]);
    assert_eq!(browser.count("a[rel=next]").await, 0);
    browser.click("a[rel=prev]").await;
    browser.until_path("/tokens?text=rack").await;
    assert_eq!(browser.text("th[aria-sort=descending]").await, "Created");
    // By another column, and the other way round; what narrows the list stays.
    browser.click("thead a[href*='sort=description']").await;
    browser.until_path("/tokens?text=rack&sort=description").await;
    assert_eq!(browser.text("th[aria-sort=ascending]").await, "Description");
    assert_eq!(descriptions(&browser).await[..2], ["rack 00", "rack 01"]);
    browser.click("thead a[href*='sort=-description']").await;
    browser.until_path("/tokens?text=rack&sort=-description").await;
    assert_eq!(descriptions(&browser).await[..2], ["rack 29", "rack 28"]);
    browser.click("thead a[href*='sort=-last-used']").await;
    browser.until_path("/tokens?text=rack&sort=-last-used").await;
    assert_eq!(descriptions(&browser).await[..2], ["rack 07", "rack 29"]);
    // A filter keeps the order, and a chip that is taken away too.
    browser.fill("input[name=text]", "rack 2").await;
    browser.click(".filters button").await;
    browser.until_path("/tokens?text=rack+2&sort=-last-used").await;
    browser.says("nav[aria-label=Pages]", "1–10 of 10").await;
    browser.click(".chips a").await;
    browser.until_path("/tokens?sort=-last-used").await;
}

/// Whoever pages sees each token once, though others are deleted and made meanwhile.
#[tokio::test]
async fn a_page_goes_on_where_the_one_before_ended() {
    let site = Site::start().await;
    let mut tokens = Vec::new();
    for number in 0..30 {
        tokens.push(token_called(&site, "olga", &format!("rack {number:02}"), PermissionSet::TELEGRAF_AGENT).await);
    }
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.go("/tokens?text=rack").await;
    browser.says("nav[aria-label=Pages]", "1–25 of 30").await;
    site.registry.delete(&operator(), &[tokens[20].id], false).await.expect("deletes");
    browser.click("a[rel=next]").await;
    browser.says("nav[aria-label=Pages]", "25–29 of 29").await;
    assert_eq!(descriptions(&browser).await, ["rack 04", "rack 03", "rack 02", "rack 01", "rack 00"]);
    token_called(&site, "olga", "rack 30", PermissionSet::TELEGRAF_AGENT).await;
    token_called(&site, "olga", "rack 31", PermissionSet::TELEGRAF_AGENT).await;
    browser.click("a[rel=prev]").await;
    browser.says("nav[aria-label=Pages]", "1–25 of 31").await;
    browser.click("a[rel=next]").await;
    browser.says("nav[aria-label=Pages]", "26–31 of 31").await;
    // What followed is gone: the end of the list.
    for token in &tokens[..6] {
        site.registry.delete(&operator(), &[token.id], false).await.expect("deletes");
    }
    browser.go("/tokens?text=rack&after=0000000000000").await;
    browser.says("nav[aria-label=Pages]", "1–25 of 25").await;
}
