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

// A browser repeats a request by itself when a connection breaks: the server knows it by its number.
const PAGE = `${Date.now()}-${Math.random()}`;
const SLOW_MS = 400;
let number = 0, waiting = 0, last = Promise.resolve();

// Changes are sent one after the other, so that they are made in the order in which somebody made them. Values may be a
// function, which is called once the answers to all earlier changes are in view.
export function post(path, values = {}) {
  const send = async () => {
    const known = { ...headers, "X-Page": PAGE, "X-Number": String(++number) };
    const body = JSON.stringify(typeof values === "function" ? values() : values);
    return (await answered(await fetch(`api/${path}`, { method: "POST", body, headers: known }))).json();
  };
  const answer = last.then(send), slow = setTimeout(() => document.body.classList.add("asking"), SLOW_MS);
  waiting++;
  last = answer.catch(() => {}).finally(() => {
    clearTimeout(slow);
    if (!--waiting) document.body.classList.remove("asking");
    return new Promise(shown => setTimeout(shown));
  });
  return answer;
}

export async function picture(path, values) {
  const response = await answered(await fetch(`api/${path}?${new URLSearchParams(values)}`, { headers }));
  return createImageBitmap(await response.blob());
}
