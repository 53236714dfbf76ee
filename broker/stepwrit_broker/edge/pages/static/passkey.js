// Passkeys in forms, times that run, focus on what is new. Everything else works without this file.
"use strict";

const bytes = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const named = (list) => (list || []).map((each) => ({ ...each, id: bytes(each.id) }));

async function get(asked) {
  const publicKey = { ...asked, challenge: bytes(asked.challenge), allowCredentials: named(asked.allowCredentials) };
  const made = await navigator.credentials.get({ publicKey });
  const said = made.response;
  return answer(made, {
    authenticatorData: text(said.authenticatorData),
    signature: text(said.signature),
    ...(said.userHandle ? { userHandle: text(said.userHandle) } : {}),
  });
}

async function create(asked) {
  const user = { ...asked.user, id: bytes(asked.user.id) };
  const excludeCredentials = named(asked.excludeCredentials);
  const publicKey = { ...asked, challenge: bytes(asked.challenge), user, excludeCredentials };
  const made = await navigator.credentials.create({ publicKey });
  return answer(made, { attestationObject: text(made.response.attestationObject) });
}

function answer(made, response) {
  const clientDataJSON = text(made.response.clientDataJSON);
  return JSON.stringify({ id: made.id, rawId: text(made.rawId), type: made.type, response: { clientDataJSON, ...response } });
}

const WHY = {
  NotAllowedError: "It was cancelled, or took too long. Nothing was signed.",
  InvalidStateError: "This device has a passkey for this already.",
  SecurityError: "This address cannot use passkeys: it needs a host name and a certificate that the browser trusts.",
};

function passkeyForm(form) {
  const button = form.querySelector("button.main");
  const wrong = form.querySelector("[data-wrong]");
  const began = performance.now();
  if (!window.PublicKeyCredential) {
    wrong.textContent = "This browser cannot use passkeys.";
    return;
  }
  button.disabled = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (performance.now() - began > Number(form.dataset.goodFor) * 1000) {
      wrong.textContent = "This page is too old. It is loaded again: read it again, then press the button.";
      setTimeout(() => location.reload(), 3000);
      return;
    }
    wrong.textContent = "";
    button.disabled = true;
    try {
      const ask = form.dataset.passkey === "create" ? create : get;
      form.elements.credential.value = await ask(JSON.parse(form.dataset.options));
      form.submit();
    } catch (error) {
      wrong.textContent = WHY[error.name] || `The passkey did not answer (${error.name}). Nothing was signed.`;
      button.disabled = false;
      button.focus();
    }
  });
}

function words(left) {
  if (left <= 0) return "no time: it has expired";
  if (left >= 7200) return `${Math.floor(left / 3600)} hours`;
  if (left >= 120) return `${Math.floor(left / 60)} minutes`;
  return left === 1 ? "1 second" : `${left} seconds`;
}

function countDown(time) {
  const until = performance.now() / 1000 + Number(time.dataset.left);
  const tell = () => {
    const left = Math.max(0, Math.floor(until - performance.now() / 1000));
    const now = words(left);
    if (time.textContent !== now) time.textContent = now;
    if (left > 0) setTimeout(tell, 1000);
  };
  tell();
}

function openInvitation(form) {
  const sealed = location.hash.slice(1);
  if (!sealed) {
    form.querySelector("[data-wrong]").textContent = "This link is not whole. Open it as you got it.";
    return;
  }
  history.replaceState(null, "", location.pathname);
  form.elements.invitation.value = sealed;
  form.submit();
}

document.querySelectorAll("form[data-passkey]").forEach(passkeyForm);
document.querySelectorAll("time[data-left]").forEach(countDown);
document.querySelectorAll("form[data-invitation]").forEach(openInvitation);
document.querySelector("[data-focus]")?.focus();
