"use strict";
document.documentElement.classList.add("scripted");
for (const frames of document.querySelectorAll(".frames")) {
  const slider = frames.querySelector("input"), output = frames.querySelector("output");
  const figures = [...frames.querySelectorAll("figure")];
  slider.addEventListener("input", () => {
    figures.forEach((figure, place) => figure.classList.toggle("shown", place === Number(slider.value)));
    const name = figures[slider.value].querySelector("figcaption").textContent;
    slider.setAttribute("aria-valuetext", name);
    output.textContent = name.replace("iteration ", "");
  });
}
for (const tabs of document.querySelectorAll(".tabs")) {
  const buttons = [...tabs.querySelectorAll("[role=tab]")];
  const select = (chosen) => {
    for (const button of buttons) {
      const selected = button === chosen;
      button.setAttribute("aria-selected", selected);
      button.tabIndex = selected ? 0 : -1;
      document.getElementById(button.getAttribute("aria-controls")).hidden = !selected;
    }
  };
  select(buttons[0]);
  tabs.addEventListener("click", (event) => { if (buttons.includes(event.target)) select(event.target); });
  tabs.addEventListener("keydown", (event) => {
    const place = buttons.indexOf(event.target), last = buttons.length - 1;
    const places = { ArrowRight: place < last ? place + 1 : 0, ArrowLeft: place > 0 ? place - 1 : last, Home: 0, End: last };
    if (place < 0 || !(event.key in places)) return;
    event.preventDefault();
    select(buttons[places[event.key]]);
    buttons[places[event.key]].focus();
  });
}
