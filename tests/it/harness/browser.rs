//! A real browser: Debian's Chromium, told what to do by WebDriver (W3C), over plain HTTP to chromedriver.
//!
//! One chromedriver for all tests of the process, and few sessions at once: a browser is heavy, and the machine may be small.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Longest wait for something on a page: browsers start slowly where the machine is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Browsers at once.
static PLACES: Semaphore = Semaphore::const_new(1);

/// How WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A window of a browser. It is closed when it is dropped.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    base: String,
    _profile: TempDir,
    _place: SemaphorePermit<'static>,
}

/// How a browser is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looks {
    pub(crate) width: u32,
    pub(crate) is_dark: bool,
    pub(crate) has_scripts: bool,
}

impl Default for Looks {
    fn default() -> Self {
        Self { width: 1280, is_dark: false, has_scripts: true }
    }
}

impl Browser {
    /// Starts one for pages of this server.
    pub(crate) async fn open(server: SocketAddr, looks: Looks) -> Self {
        Self::open_at(format!("http://{server}"), looks).await
    }

    /// Starts one for pages below this URL. Every name leads to this machine, with whatever certificate.
    pub(crate) async fn open_at(base: String, looks: Looks) -> Self {
        let place = PLACES.acquire().await.expect("never closed");
        let (driver, address) = driver();
        let profile = tempfile::tempdir().expect("a directory");
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--no-first-run".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--host-resolver-rules=MAP * 127.0.0.1".to_owned(),
            format!("--window-size={},900", looks.width.max(500)),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        if looks.is_dark {
            arguments.push("--force-prefers-color-scheme=dark".to_owned());
            arguments.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        let scripts = if looks.has_scripts { 1 } else { 2 };
        let wanted = json!({ "capabilities": { "alwaysMatch": { "browserName": "chrome", "acceptInsecureCerts": true, "goog:chromeOptions": {
            "args": arguments, "prefs": { "profile.managed_default_content_settings.javascript": scripts },
        } } } });
        let mut browser = Self { driver, address, session: String::new(), base, _profile: profile, _place: place };
        let begun = browser.call("POST", "/session", Some(wanted)).await.expect("a browser starts");
        browser.session = begun["sessionId"].as_str().expect("a session").to_owned();
        let size = json!({
            "width": looks.width, "height": 900, "deviceScaleFactor": 1, "mobile": looks.width < 500,
        });
        browser.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if looks.is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.devtools("Emulation.setEmulatedMedia", media).await;
        browser
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.ask("POST", "/goog/cdp/execute", Some(json!({ "cmd": command, "params": parameters }))).await
    }

    /// Goes to a path of the server.
    pub(crate) async fn go(&self, path: &str) {
        self.ask("POST", "/url", Some(json!({ "url": format!("{}{path}", self.base) }))).await;
    }

    /// The path that it shows, with its query.
    pub(crate) async fn path(&self) -> String {
        let url = self.ask("GET", "/url", None).await;
        let url = url.as_str().expect("a URL");
        url.strip_prefix(&self.base).unwrap_or(url).to_owned()
    }

    /// Waits until it shows a path that begins so.
    pub(crate) async fn is_at(&self, path: &str) {
        self.until(&format!("the page {path}"), async || self.path().await.starts_with(path).then_some(())).await;
    }

    /// Waits until it shows just this path.
    pub(crate) async fn until_path(&self, path: &str) {
        self.until(&format!("the page {path}"), async || (self.path().await == path).then_some(())).await;
    }

    /// Another tab, in front of the others, which stay open.
    pub(crate) async fn open_tab(&self) {
        let tab = self.ask("POST", "/window/new", Some(json!({ "type": "tab" }))).await;
        self.ask("POST", "/window", Some(json!({ "handle": tab["handle"] }))).await;
    }

    /// The cookies of the page, as WebDriver tells them.
    pub(crate) async fn cookies(&self) -> Vec<Value> {
        self.ask("GET", "/cookie", None).await.as_array().expect("a list").clone()
    }

    /// Clicks the first element that a selector finds, as soon as that can be done.
    pub(crate) async fn click(&self, selector: &str) {
        self.until(&format!("clicking {selector}"), async || {
            let element = self.find(selector).await?;
            self.call("POST", &self.of(&format!("/element/{element}/click")), Some(json!({}))).await.ok().map(drop)
        })
        .await;
    }

    /// Types into a field.
    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        self.until(&format!("filling {selector}"), async || {
            let element = self.find(selector).await?;
            // A choice has nothing to clear.
            self.call("POST", &self.of(&format!("/element/{element}/clear")), Some(json!({}))).await.ok();
            let text = Some(json!({ "text": text }));
            self.call("POST", &self.of(&format!("/element/{element}/value")), text).await.ok().map(drop)
        })
        .await;
    }

    /// Presses keys, wherever the focus is.
    pub(crate) async fn press(&self, keys: &[&str]) {
        let strokes = keys
            .iter()
            .flat_map(|key| [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]);
        let actions = json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes.collect::<Vec<_>>() }] });
        self.ask("POST", "/actions", Some(actions)).await;
    }

    /// What an element says, or a field holds; waits until it is there.
    pub(crate) async fn text(&self, selector: &str) -> String {
        self.until(&format!("the text of {selector}"), async || {
            let element = self.find(selector).await?;
            let text = self.call("GET", &self.of(&format!("/element/{element}/text")), None).await.ok()?;
            text.as_str().map(str::to_owned)
        })
        .await
    }

    /// A property of an element, such as `value`.
    pub(crate) async fn property(&self, selector: &str, name: &str) -> Value {
        self.until(&format!("{name} of {selector}"), async || {
            let element = self.find(selector).await?;
            self.call("GET", &self.of(&format!("/element/{element}/property/{name}")), None).await.ok()
        })
        .await
    }

    /// Waits until an element says this, among other things.
    pub(crate) async fn says(&self, selector: &str, text: &str) {
        self.until(&format!("“{text}” in {selector}"), async || {
            let element = self.find(selector).await?;
            let said = self.call("GET", &self.of(&format!("/element/{element}/text")), None).await.ok()?;
            said.as_str().is_some_and(|said| said.contains(text)).then_some(())
        })
        .await;
    }

    /// How many elements a selector finds now.
    pub(crate) async fn count(&self, selector: &str) -> usize {
        let found = self.ask("POST", "/elements", Some(json!({ "using": "css selector", "value": selector }))).await;
        found.as_array().expect("a list").len()
    }

    /// What a script of the test's returns.
    pub(crate) async fn script(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", Some(json!({ "script": script, "args": [] }))).await
    }

    /// What a script returns that takes its time.
    pub(crate) async fn script_async(&self, script: &str) -> Value {
        self.ask("POST", "/execute/async", Some(json!({ "script": script, "args": [] }))).await
    }

    /// Has each request take so long; `None`: as long as it does.
    pub(crate) async fn slow(&self, latency: Option<Duration>) {
        self.devtools("Network.enable", json!({})).await;
        let millis = latency.map_or(0, |latency| latency.as_millis());
        let conditions =
            json!({ "offline": false, "latency": millis, "downloadThroughput": -1, "uploadThroughput": -1 });
        self.devtools("Network.emulateNetworkConditions", conditions).await;
    }

    /// The whole page as PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        let shot = json!({ "format": "png", "captureBeyondViewport": true });
        let shot = self.devtools("Page.captureScreenshot", shot).await;
        decode(shot["data"].as_str().expect("a picture"))
    }

    async fn find(&self, selector: &str) -> Option<String> {
        let query = Some(json!({ "using": "css selector", "value": selector }));
        let found = self.call("POST", &self.of("/element"), query).await.ok()?;
        found[ELEMENT].as_str().map(str::to_owned)
    }

    async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if began.elapsed() > PATIENCE {
                let source = self.ask("GET", "/source", None).await;
                panic!("waited in vain for {what} at {}:\n{}", self.path().await, source.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn of(&self, path: &str) -> String {
        format!("/session/{}{path}", self.session)
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let answer = self.call(method, &self.of(path), body).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// One command, and its value or what went wrong.
    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Value> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let (address, length) = (self.address, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await?;
            // The driver keeps the connection whatever it is told: a reply ends where it says.
            let mut reply = Vec::new();
            while !is_whole(&reply) && tokio::io::AsyncReadExt::read_buf(&mut stream, &mut reply).await? > 0 {}
            Ok::<_, std::io::Error>(reply)
        };
        let reply = tokio::time::timeout(2 * PATIENCE, exchange).await.expect("chromedriver answers");
        let reply = reply.expect("chromedriver is there");
        let text = String::from_utf8_lossy(&reply);
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let value: Value = serde_json::from_str(body).expect("JSON");
        let value = value["value"].clone();
        if head.starts_with("HTTP/1.1 200") { Ok(value) } else { Err(value) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A driver that is killed would leave the browser behind.
        let request = format!(
            "DELETE /session/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            self.session, self.address
        );
        if let Ok(mut stream) = std::net::TcpStream::connect(self.address) {
            stream.set_read_timeout(Some(PATIENCE)).ok();
            stream.write_all(request.as_bytes()).ok();
            let (mut reply, mut piece) = (Vec::new(), [0; 1024]);
            while let Ok(count @ 1..) = stream.read(&mut piece) {
                reply.extend_from_slice(&piece[..count]);
                if is_whole(&reply) {
                    break;
                }
            }
        }
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

/// Whether a reply has come with all of its body.
fn is_whole(reply: &[u8]) -> bool {
    let text = String::from_utf8_lossy(reply);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    length.is_none_or(|length: usize| reply.len() >= head.len() + 4 + length)
}

/// Starts chromedriver on a port of its own choice.
fn driver() -> (Child, SocketAddr) {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromedriver is installed (tests/run.sh does that)");
    let output = BufReader::new(driver.stdout.take().expect("piped"));
    let mut lines = output.lines().map_while(Result::ok);
    let port = lines.find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    // Whoever writes into a pipe that nobody reads would stop.
    std::thread::spawn(move || lines.for_each(drop));
    (driver, SocketAddr::from(([127, 0, 0, 1], port.expect("chromedriver says its port"))))
}

/// Base64 (RFC 4648 section 4).
fn decode(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(text.len() * 3 / 4), 0u32, 0);
    for symbol in text.bytes().filter(|symbol| *symbol != b'=') {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes
}
