/** What went wrong, in words for the person in front of the page. */
export class Problem extends Error {
  /**
   * @param {string} message What is wrong.
   * @param {string} advice What to do about it.
   */
  constructor(message, advice, options) {
    super(message, options);
    this.name = "Problem";
    this.advice = advice;
  }
}
