"use strict";
// The page of work that goes on loads itself anew, unless the reader takes the mark away.
const reload = document.getElementById("reload");
reload.hidden = false;
setInterval(() => {
  if (reload.querySelector("input").checked) location.reload();
}, 1000 * reload.dataset.seconds);
