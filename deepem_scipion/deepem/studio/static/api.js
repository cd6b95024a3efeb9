// Copyright (C) 2026 the authors of scipion-em-deepem
// SPDX-License-Identifier: GPL-3.0-or-later
// Requests to the server. The token is in the address after #, which a browser never sends by itself.

const KEY = "token";
if (location.hash.length > 1) {
  sessionStorage.setItem(KEY, location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
}
// Another studio may have got the same port: a new address in an open page differs after # only.
addEventListener("hashchange", () => location.reload());
const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };

async function answered(response) {
  if (response.ok) return response;
  const text = await response.text();
  let problem = text;
  try { problem = JSON.parse(text).problem; } catch { /* plain text */ }
  throw new Error(problem || `status ${response.status}`);
}

export async function get(path, values = {}, signal = undefined) {
  const query = new URLSearchParams(values).toString();
  return (await answered(await fetch(`api/${path}${query && "?" + query}`, { headers, signal }))).json();
}

export async function post(path, values = {}) {
  const body = JSON.stringify(values);
  return (await answered(await fetch(`api/${path}`, { method: "POST", body, headers }))).json();
}

export async function picture(path, values) {
  const response = await answered(await fetch(`api/${path}?${new URLSearchParams(values)}`, { headers }));
  return createImageBitmap(await response.blob());
}
