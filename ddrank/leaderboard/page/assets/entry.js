// All about one entry, in a row below its own.

const MEANING = {
  real_hard: "all real images, class labels",
  syn_hard: "distilled images, class labels",
  syn_any: "distilled images, their own way",
  rdm_any: "random real images, the same way",
  syn_any_noaug: "syn_any without augmentation",
  rdm_any_noaug: "rdm_any without augmentation",
};
const LONG = ["Paper", "Code", "Note", "Data, sha256", "File", "Files"];
let configs = null; // unpacked when the first one is opened

function drawEntry(row) {
  const { entry } = row;
  const group = state.group;
  const picture = Object.hasOwn(pictures, entry.data) && pictures[entry.data];
  const facts = [
    ["Method", entry.method],
    ["Paper", entry.paper && link(entry.paper)],
    ["Code", entry.code && link(entry.code)],
    ["Run by", entry.by],
    ["Date", entry.date],
    ["Note", entry.note],
    ["Evaluated with", `${group.dataset}, IPC ${group.ipc}, ${group.model}`],
    ["Protocol", protocolOf(group)],
    ["Labels", entry.labels],
    ["Augmentation", entry.aug],
    ["Criterion", entry.criterion],
    ["Seeds", `${entry.seeds.length} (${entry.seeds.join(", ")})`],
    ["Data, sha256", element("code", {}, entry.data)],
    [entry.files.length > 1 ? "Files" : "File", entry.files.join("\n")],
  ];
  const list = facts
    .filter(([, value]) => value)
    .map(([name, value]) => {
      const long = LONG.includes(name) ? "long" : null;
      return element("div", { class: long }, element("dt", {}, name), element("dd", {}, value));
    });
  const inside = element(
    "div",
    { class: "entry" },
    element("h3", {}, entry.name),
    element(
      "div",
      { class: "about" },
      element("dl", {}, ...list),
      picture ? drawPicture(picture, entry) : "",
    ),
    armsTable(entry),
    configOf(entry),
  );
  return element(
    "tr",
    { id: "entry", class: "details" },
    element("td", { colspan: COLUMNS.length }, inside),
  );
}

function drawPicture(picture, entry) {
  return element(
    "figure",
    {},
    element("img", { src: picture, alt: `Distilled images of ${entry.name}` }),
    element("figcaption", {}, "The distilled images"),
  );
}

function armsTable(entry) {
  const rows = Object.entries(entry.arms).map(([name, arm]) => {
    const found = statistic(arm.accuracy, quantiles);
    const rates = [...new Set(arm.lr.filter((rate) => rate !== null))].map(short).join(", ");
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, element("code", {}, name), element("small", {}, MEANING[name])),
      element("td", {}, number(found.mean) + (arm.reference ? "*" : "")),
      element("td", {}, arm.reference || found.n < 2 ? "–" : number(found.std)),
      element("td", {}, arm.reference ? "–" : span(found.interval) || "–"),
      element("td", { class: "each" }, arm.accuracy.map((value) => number(value)).join("  ")),
      element("td", {}, rates || "–"),
    );
  });
  const heads = ["Arm", "Accuracy", "Std", "95 % interval", `By seed (${entry.seeds.join(", ")})`, "Learning rate"];
  return element(
    "div",
    { class: "scroll", role: "region", tabindex: "0", "aria-label": `Arms of ${entry.name}` },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, ...rows),
    ),
  );
}

function configOf(entry) {
  const packed = document.getElementById("configs").textContent;
  if (!packed) return "";
  const text = element("pre", { tabindex: "0", "aria-label": "The resolved configuration, as JSON" });
  const made = element("details", {}, element("summary", {}, "The whole resolved configuration"), text);
  made.addEventListener("toggle", async () => {
    if (!made.open || text.textContent) return;
    configs ??= unpacked(packed);
    text.textContent = JSON.stringify((await configs)[entry.config], null, 1);
  });
  return made;
}

async function unpacked(packed) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
