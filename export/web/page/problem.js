/** An error with a message and advice for the user of the page. */
export class Problem extends Error {
  /**
   * @param {string} message Description of the problem.
   * @param {string} advice What the user can do.
   */
  constructor(message, advice, options) {
    super(message, options);
    this.name = "Problem";
    this.advice = advice;
  }
}
